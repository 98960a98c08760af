/*
 * Unfinished checksums.
 *
 * A pod's packet often comes with the TCP or UDP checksum left to the device (CHECKSUM_PARTIAL: the field
 * holds the pseudo header's sum, see the kernel's skbuff.h). A network card finishes it on the way out; a
 * veth pair, or a virtual machine's device, hands it over unfinished together with a note, which whoever
 * reads the tunnel's payload from a socket never sees. So unless the device finishes it or the peer's kernel
 * decapsulates, it's done here: sum the packet, store the result, and make the kernel drop its note.
 *
 * There is no helper for the last step, but the kernel drops the note when what it points at is pulled
 * (skb_postpull_rcsum): so the inner headers' first bytes are taken away and put back with the outer ones.
 *
 * Whether a checksum is unfinished can't be asked either: the field is compared with the pseudo header's sum.
 * One finished checksum in 65536 looks so too, and is then computed to the same value again.
 */
#ifndef FLANNEL_FINISH_H
#define FLANNEL_FINISH_H

#define CHUNK 512	/* what bpf_csum_diff takes at once */
#define CHUNKS 20	/* enough for jumbo frames (9000 bytes) */

enum { FINISHED, UNFINISHED, UNKNOWN };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u8[CHUNK]);
} flannel_chunk SEC(".maps");

/* Adds `length` bytes from `at` to `sum`; an even number of them before. Negative if it can't. */
static __always_inline int sum_bytes(struct __sk_buff *skb, __u32 at, __u32 length, __u32 *sum)
{
	__u32 zero = 0;
	__u8 *chunk = bpf_map_lookup_elem(&flannel_chunk, &zero);

	if (!chunk)
		return -1;
	for (int i = 0; i < CHUNKS && length; i++) {
		__u32 bytes = length < CHUNK ? length : CHUNK;
		__u32 words;

		/* The compiler knows that 0 < bytes <= CHUNK, the verifier wants to be shown. */
		asm volatile("" : "+r"(bytes));
		if (bytes == 0 || bytes > CHUNK)
			return -1;
		words = (bytes - 1) & (CHUNK - 4);
		*(__u32 *)(chunk + words) = 0;
		if (bpf_skb_load_bytes(skb, at, chunk, bytes))
			return -1;
		*sum = bpf_csum_diff(0, 0, (__be32 *)chunk, words + 4, *sum);
		at += bytes;
		length -= bytes;
	}
	return length ? -1 : 0;
}

/* Offset of the checksum in the transport header; 0: it has none that a device could finish; negative: unknown. */
static __always_inline int checksum_offset(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return offsetof(struct udphdr, check);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return 0;
	}
	return -1;
}

/* `at`: of the transport header; `pseudo`: its pseudo header's folded sum. UNFINISHED ones are finished in place. */
static __always_inline int finish(struct __sk_buff *skb, __u32 at, __u32 length, __u8 protocol, __u16 pseudo)
{
	int offset = checksum_offset(protocol);
	__u16 check;
	__u32 sum = 0;

	if (offset <= 0)
		return offset ? UNKNOWN : FINISHED;
	if (bpf_skb_load_bytes(skb, at + offset, &check, sizeof(check)))
		return FINISHED; /* too short to have one */
	/* No checksum: perhaps a tunnel in a pod, with an unfinished one deeper inside. */
	if (!check && protocol == IPPROTO_UDP)
		return UNKNOWN;
	if (check != pseudo)
		return FINISHED;
	if (sum_bytes(skb, at, length, &sum))
		return UNKNOWN;
	check = ~fold(sum);
	if (!check)
		check = 0xffff; /* RFC 768: 0 would say that there is none. For TCP the same number */
	if (bpf_skb_store_bytes(skb, at + offset, &check, sizeof(check), 0))
		return UNKNOWN;
	return UNFINISHED;
}

#endif
