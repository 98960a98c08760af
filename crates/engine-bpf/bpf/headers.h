/* Headers as they lie in a packet (RFC 791, RFC 8200, RFC 768), and the Internet checksum (RFC 1071). */
#ifndef FLANNEL_HEADERS_H
#define FLANNEL_HEADERS_H

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define FRAGMENT bpf_htons(0x3fff)	/* more fragments, or an offset */
#define ECN 3				/* RFC 3168: 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced */
#define CE 3
#define OUTER_TTL 64
/*
 * What kernel engines tell each other, in datagrams that only they send (UDP checksum 0): "your super-packets
 * reach me in one piece". In IPv4's identification, whose other bits count segments up; in IPv6's flow label.
 */
#define UNCUT4 0x8000
#define ID4 0x3fff
#define UNCUT6 1
#define MOST_UDP 65507			/* payload bytes of a datagram over IPv4 */

/* What encapsulation puts before an inner packet. */
struct outer4 {
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed, aligned(4)));

struct outer6 {
	struct ipv6hdr ip;
	struct udphdr udp;
} __attribute__((packed, aligned(4)));

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum of an IPv4 header without options: 0xffff if its checksum is right. */
static __always_inline __u16 sum_header4(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 5; i++)
		sum += words[i];
	return fold(sum);
}

/* The same of one that may have options; -1 if not all of it lies before `end`. */
static __always_inline int sum_header4_options(const struct iphdr *ip, const void *end)
{
	const __u32 *word = (const __u32 *)(ip + 1);
	__u64 sum = sum_header4(ip);

#pragma unroll
	for (int i = 5; i < 15; i++, word++) {
		if (i >= ip->ihl)
			break;
		if ((const void *)(word + 1) > end)
			return -1;
		sum += *word;
	}
	return fold(sum);
}

/*
 * A TCP packet that only acknowledges: it may overtake others of its flow, and GRO joins it with none.
 * `ip` is an IPv4 or IPv6 header without options, all of it before `end`.
 */
static __always_inline int only_acknowledges(const void *ip, const void *end, int four)
{
	const struct tcphdr *tcp = ip + (four ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	__u32 length;

	if ((const void *)(tcp + 1) > end)
		return 0;
	if (four) {
		const struct iphdr *header = ip;

		if (header->protocol != IPPROTO_TCP || header->ihl != 5 || header->frag_off & FRAGMENT)
			return 0;
		length = bpf_ntohs(header->tot_len) - sizeof(*header);
	} else {
		const struct ipv6hdr *header = ip;

		if (header->nexthdr != IPPROTO_TCP)
			return 0;
		length = bpf_ntohs(header->payload_len);
	}
	return length == tcp->doff * 4 && !tcp->syn && !tcp->fin && !tcp->rst;
}

static __always_inline __u8 class6(const struct ipv6hdr *ip)
{
	return bpf_ntohl(*(const __be32 *)ip) >> 20;
}

static __always_inline int same6(const __u32 *a, const volatile __u32 *b)
{
	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

#endif
