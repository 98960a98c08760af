/*
 * Who may come in. Every datagram for our port is judged here, whichever hook it came through:
 * the outer source must be the endpoint of the peer whose subnet holds the inner source, and the
 * inner destination must be ours.
 */
#ifndef FLANNEL_ADMIT_H
#define FLANNEL_ADMIT_H

struct found {
	struct peer *peer;	/* set if admitted */
	__u32 length;		/* of the inner packet */
	__u8 ecn;		/* the outer header's */
	__u8 protocol;		/* of the inner packet */
	__u8 ttl;		/* the outer header's */
};

static __always_inline int is_local4(__be32 address)
{
#pragma unroll
	for (int i = 0; i < MOST; i++) {
		if (i < config.local4s && config.local4[i] == address)
			return 1;
	}
	return 0;
}

static __always_inline int is_local6(const __u32 *address)
{
#pragma unroll
	for (int i = 0; i < MOST; i++) {
		if (i < config.local6s && same6(address, config.local6[i]))
			return 1;
	}
	return 0;
}

static __always_inline int is_own4(__be32 address)
{
#pragma unroll
	for (int i = 0; i < MOST; i++) {
		if (i < config.own4s && (address & config.own4[i].mask) == config.own4[i].address)
			return 1;
	}
	return 0;
}

static __always_inline int is_own6(const __u32 *address)
{
#pragma unroll
	for (int i = 0; i < MOST; i++) {
		const volatile struct in6 *own = &config.own6[i];
		__u32 masked[4] = {
			address[0] & own->mask[0], address[1] & own->mask[1],
			address[2] & own->mask[2], address[3] & own->mask[3],
		};

		if (i < config.own6s && same6(masked, own->address))
			return 1;
	}
	return 0;
}

/* Count a drop, at the peer too if the outer source is one's. Gives the reason. */
static __always_inline int refuse(const struct endpoint *from, int reason)
{
	__u32 *id = bpf_map_lookup_elem(&flannel_ends, from);
	struct traffic *traffic = id ? bpf_map_lookup_elem(&flannel_traffic, id) : 0;

	if (traffic)
		traffic->drops++;
	if (reason == SPOOFED_SOURCE && !id)
		reason = NOT_A_PEER;
	count(reason);
	return reason;
}

/*
 * Its kernel's engine sends UDP checksum 0, sockets never do: so whoever sent that finishes inner
 * checksums itself on arrival.
 */
static __always_inline void heard(struct peer *peer, const struct udphdr *udp, int uncut)
{
	if (udp->check)
		return;
	note(&peer->seen_ns);
	if (uncut)
		note_within(&peer->uncut_ns, SHORT_NS);
}

/* `start` is the outer header, `frame` the bytes from there to the frame's end. */
static __always_inline int admit4(void *start, void *end, __u32 frame, struct found *found)
{
	struct iphdr *outer = start;
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *ip = (void *)(udp + 1);
	struct endpoint from = {};
	struct key4 key = { .bits = 32 };
	struct peer *peer;
	__u32 length;

	if ((void *)(udp + 1) > end || outer->version != 4 || outer->ihl != 5 || outer->protocol != IPPROTO_UDP)
		return PASS;
	if (udp->dest != config.port || outer->frag_off & FRAGMENT || !is_local4(outer->daddr))
		return PASS;
	/* What is unsound outside is the stack's to drop and to count. */
	length = bpf_ntohs(udp->len) - sizeof(*udp);
	if (bpf_ntohs(outer->tot_len) != length + sizeof(struct outer4) || frame < length + sizeof(struct outer4) ||
	    sum_header4(outer) != 0xffff)
		return LEFT;
	/*
	 * A socket on this machine sent it, over veth: the kernel's note that the outer checksum is unfinished would
	 * stay behind, on the inner packet, and break what forwards or fragments it.
	 */
	if (udp->check && udp->check == fold((__u64)outer->saddr + outer->daddr + bpf_htons(IPPROTO_UDP) + udp->len))
		return LEFT;
	from.address[0] = outer->saddr;
	if (length < sizeof(*ip))
		return refuse(&from, MALFORMED);
	if ((void *)(ip + 1) > end)
		return LEFT;
	if (ip->version != 4 || ip->ihl < 5 || !ip->ttl || bpf_ntohs(ip->tot_len) > length ||
	    bpf_ntohs(ip->tot_len) < ip->ihl * 4)
		return refuse(&from, MALFORMED);
	if (ip->ihl == 5) {
		if (sum_header4(ip) != 0xffff)
			return refuse(&from, MALFORMED);
	} else {
		int sum = sum_header4_options(ip, end);

		if (sum < 0)
			return LEFT;
		if (sum != 0xffff)
			return refuse(&from, MALFORMED);
	}
	key.address = ip->saddr;
	peer = bpf_map_lookup_elem(&flannel_peers4, &key);
	/* More than one inner packet: a train from a socket's UDP_SEGMENT, or a receiver's UDP_GRO. */
	if (bpf_ntohs(ip->tot_len) != length) {
		if (peer && peer->endpoint[0] == outer->saddr)
			note(&peer->train_in_ns);
		return LEFT;
	}
	if (!peer || peer->endpoint[0] != outer->saddr)
		return refuse(&from, SPOOFED_SOURCE);
	if (!is_own4(ip->daddr))
		return refuse(&from, NOT_OURS);
	found->ecn = outer->tos & ECN;
	/* RFC 6040 4.2: congestion that the inner packet can't carry further is a loss. */
	if (found->ecn == CE && !(ip->tos & ECN))
		return refuse(&from, MALFORMED);
	/* Behind a train, what follows keeps its place. */
	if (lately(peer->train_in_ns) && !only_acknowledges(ip, end, 1))
		return LEFT;
	heard(peer, udp, bpf_ntohs(outer->id) & UNCUT4);
	found->peer = peer;
	found->length = length;
	found->protocol = ip->protocol;
	found->ttl = outer->ttl;
	return ADMITTED;
}

static __always_inline int admit6(void *start, void *end, __u32 frame, struct found *found)
{
	struct ipv6hdr *outer = start;
	struct udphdr *udp = (void *)(outer + 1);
	struct ipv6hdr *ip = (void *)(udp + 1);
	struct endpoint from = {};
	struct key6 key = { .bits = 128 };
	struct peer *peer;
	__u32 length;

	/* Extension headers, so fragments too, are the stack's. */
	if ((void *)(udp + 1) > end || outer->version != 6 || outer->nexthdr != IPPROTO_UDP)
		return PASS;
	if (udp->dest != config.port || !is_local6(outer->daddr.in6_u.u6_addr32))
		return PASS;
	length = bpf_ntohs(udp->len) - sizeof(*udp);
	if (bpf_ntohs(outer->payload_len) != length + sizeof(*udp) || frame < length + sizeof(struct outer6))
		return LEFT;
	if (udp->check) { /* see admit4 */
		__u64 sum = bpf_htons(IPPROTO_UDP) + (__u64)udp->len;

#pragma unroll
		for (int i = 0; i < 4; i++)
			sum += (__u64)outer->saddr.in6_u.u6_addr32[i] + outer->daddr.in6_u.u6_addr32[i];
		if (udp->check == fold(sum))
			return LEFT;
	}
	__builtin_memcpy(&from, &outer->saddr, sizeof(from));
	if (length < sizeof(*ip))
		return refuse(&from, MALFORMED);
	if ((void *)(ip + 1) > end)
		return LEFT;
	if (ip->version != 6 || !ip->hop_limit || bpf_ntohs(ip->payload_len) + sizeof(*ip) > length)
		return refuse(&from, MALFORMED);
	__builtin_memcpy(key.address, &ip->saddr, sizeof(key.address));
	peer = bpf_map_lookup_elem(&flannel_peers6, &key);
	if (bpf_ntohs(ip->payload_len) + sizeof(*ip) != length) {
		if (peer && same6(from.address, peer->endpoint))
			note(&peer->train_in_ns);
		return LEFT;
	}
	if (!peer || !same6(from.address, peer->endpoint))
		return refuse(&from, SPOOFED_SOURCE);
	if (!is_own6(ip->daddr.in6_u.u6_addr32))
		return refuse(&from, NOT_OURS);
	found->ecn = class6(outer) & ECN;
	if (found->ecn == CE && !(class6(ip) & ECN))
		return refuse(&from, MALFORMED);
	if (lately(peer->train_in_ns) && !only_acknowledges(ip, end, 0))
		return LEFT;
	heard(peer, udp, bpf_ntohl(*(const __be32 *)outer) & UNCUT6);
	found->peer = peer;
	found->length = length;
	found->protocol = ip->nexthdr;
	found->ttl = outer->hop_limit;
	return ADMITTED;
}

#endif
