/*
 * Encapsulation at the TUN device's tc egress. Super-packets stay whole: they are marked as inside a UDP
 * tunnel (SKB_GSO_UDP_TUNNEL), so that the card, or else the kernel just before the driver, cuts them and
 * repeats the outer headers. Whatever isn't taken goes on to the device's reader, the user-space engine.
 */
#ifndef FLANNEL_ENCAP_H
#define FLANNEL_ENCAP_H

#define LOOPBACK 1	/* its index in every network namespace: where look-ups for packets of this node start */
#define PULL4 24	/* > 20: behind the start of the transport header, see finish.h; a multiple of 4 */
#define PULL6 44

static __always_inline int leave(void)
{
	count(PASSED_TX);
	return TC_ACT_UNSPEC;
}

static __always_inline int broken(void)
{
	count(IO);
	return TC_ACT_SHOT;
}

/* Does somebody else finish the inner checksum: the device, or the kernel of this peer? */
static __always_inline int finished_later(const struct peer *peer, __u32 device)
{
#pragma unroll
	for (int i = 0; i < MOST; i++) {
		if (i < config.finishings && config.finishing[i] == device)
			return 1;
	}
	return lately(peer->seen_ns);
}

/* Its segments' checksums can't be finished here, so a super-packet is left; behind it, what follows keeps its place. */
static __always_inline int to_leave(struct __sk_buff *skb, const void *ip, int four, struct peer *peer)
{
	if (skb->gso_size) {
		note(&peer->train_out_ns);
		return 1;
	}
	return lately(peer->train_out_ns) && !only_acknowledges(ip, END(skb), four);
}

/* The way to the endpoint, by the node's own rules and routes. Negative if there is none for us. */
static __always_inline int look_up(struct __sk_buff *skb, struct bpf_fib_lookup *way, __u32 length)
{
	long found;

	way->ifindex = LOOPBACK;
	way->l4_protocol = IPPROTO_UDP;
	way->sport = config.port;
	way->tot_len = skb->gso_size ? 0 : length; /* of a train each segment is as long as the TUN's MTU lets it be */
	found = bpf_fib_lookup(skb, way, sizeof(*way), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return -1;
	return way->ifindex == config.tun ? -1 : found;
}

/*
 * Through the next hop's neighbour entry, which the kernel probes and refreshes. Where there is none yet, the
 * kernel must look up the way itself: a packet that waits for a neighbour goes on by the route it carries,
 * which would still be the inner one's, to the TUN device.
 */
static __always_inline int send(struct __sk_buff *skb, const struct bpf_fib_lookup *way, int found)
{
	struct bpf_redir_neigh hop = { .nh_family = way->family };

	if (found == BPF_FIB_LKUP_RET_NO_NEIGH)
		return bpf_redirect_neigh(way->ifindex, 0, 0, 0);
	if (way->family == AF_INET)
		hop.ipv4_nh = way->ipv4_dst;
	else
		__builtin_memcpy(hop.ipv6_nh, way->ipv6_dst, sizeof(hop.ipv6_nh));
	return bpf_redirect_neigh(way->ifindex, &hop, sizeof(hop), 0);
}

/*
 * May this packet go without any marks of a tunnel? Then it's only made longer at its head. A super-packet so
 * made can't be cut any more, but it need not be: the peer told that what we send reaches it in one piece, over
 * links only (two nodes of one machine, over veth). Should that end, because somebody switches segmentation at an
 * underlay device off, then the peer stops telling it, and TCP has lost a tenth of a second's packets. The marks would cost dearly there: on arrival no program can
 * take them off, and a device that doesn't know tunnels (a bridge, to which pods are tied) would cut the packet.
 */
static __always_inline int light(const struct __sk_buff *skb, const struct peer *peer, __u8 protocol)
{
	return !config.tun_header && within(peer->uncut_ns, SHORT_NS) && (!skb->gso_size || protocol == IPPROTO_TCP);
}

/* Make room for `bytes` of outer headers; `flags` say which. Gives their offset, negative if it can't. */
static __always_inline int widen(struct __sk_buff *skb, __u32 bytes, int light, __u64 flags)
{
	if (light)
		return bpf_skb_change_head(skb, ETH + bytes, 0) ? -1 : ETH;
	/* FIXED_GSO: segments keep the size the TUN's MTU gave them, which has room for the outer headers. */
	if (bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_FIXED_GSO))
		return -1;
	/* A TUN packet has no link header, the redirection takes one away. */
	if (!config.tun_header && bpf_skb_change_head(skb, ETH, 0))
		return -2;
	return ETH;
}

static __always_inline int encap4(struct __sk_buff *skb)
{
	struct iphdr *ip = DATA(skb) + config.tun_header;
	struct { struct outer4 outer; __u8 pulled[PULL4]; } head = {};
	struct bpf_fib_lookup way = { .family = AF_INET };
	struct key4 key = { .bits = 32 };
	__u32 length = skb->len - config.tun_header, packets, pull = 0;
	struct peer *peer;
	int found, at;
	__u8 ecn, protocol;

	if ((void *)(ip + 1) > END(skb)) {
		if (bpf_skb_pull_data(skb, config.tun_header + sizeof(*ip)))
			return leave();
		ip = DATA(skb) + config.tun_header;
		if ((void *)(ip + 1) > END(skb))
			return leave();
	}
	key.address = ip->daddr;
	peer = bpf_map_lookup_elem(&flannel_peers4, &key);
	if (!peer || length > MOST_UDP || !config.has_source4)
		return leave();
	/* The kernel can't cut a train of datagrams inside a tunnel of this kind; the user-space engine can. */
	if (skb->gso_size && ip->protocol == IPPROTO_UDP)
		return leave();
	ecn = ip->tos & ECN;
	protocol = ip->protocol;
	way.ipv4_src = config.source4;
	way.ipv4_dst = peer->endpoint[0];
	way.dport = peer->port;
	found = look_up(skb, &way, length + sizeof(struct outer4));
	if (found < 0)
		return leave();
	packets = segments(skb, length);
	if (!finished_later(peer, way.ifindex)) {
		__u32 size = length - sizeof(*ip);
		__u16 pseudo = fold((__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) + bpf_htons(size));

		if (to_leave(skb, ip, 1, peer))
			return leave();
		if (!(ip->frag_off & FRAGMENT)) {
			int result;

			if (ip->ihl != 5)
				return leave();
			result = finish(skb, config.tun_header + sizeof(*ip), size, ip->protocol, pseudo);
			if (result == UNKNOWN)
				return leave();
			if (result == UNFINISHED)
				pull = PULL4;
		}
	}
	if (pull) {
		/* The kernel wants 20 bytes to remain; what is added lies behind the packet's end as its header tells it. */
		if (length < PULL4 + 20 && bpf_skb_change_tail(skb, config.tun_header + PULL4 + 20, 0))
			return broken();
		if (bpf_skb_load_bytes(skb, config.tun_header, head.pulled, PULL4) ||
		    bpf_skb_adjust_room(skb, -PULL4, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return broken();
	}
	at = widen(skb, sizeof(struct outer4) + pull, !pull && light(skb, peer, protocol), BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
	if (at < 0)
		return pull || at < -1 ? broken() : leave();
	head.outer.ip.version = 4;
	head.outer.ip.ihl = 5;
	head.outer.ip.tos = ecn;	/* RFC 6040 4.1, normal mode: the same */
	head.outer.ip.ttl = OUTER_TTL;
	head.outer.ip.protocol = IPPROTO_UDP;
	/* Don't Fragment is clear, as vxlan's; so the identification counts (RFC 6864). */
	head.outer.ip.id = bpf_htons((bpf_get_prandom_u32() & ID4) | (within(peer->direct_ns, SHORT_NS) ? UNCUT4 : 0));
	head.outer.ip.tot_len = bpf_htons(length + sizeof(struct outer4));
	head.outer.ip.saddr = config.source4;
	head.outer.ip.daddr = peer->endpoint[0];
	head.outer.ip.check = ~sum_header4(&head.outer.ip);
	head.outer.udp.source = config.port;
	head.outer.udp.dest = peer->port;
	head.outer.udp.len = bpf_htons(length + sizeof(struct udphdr));
	/* UDP checksum 0 (RFC 768: none); the inner packet has its own. */
	if (pull ? bpf_skb_store_bytes(skb, at, &head, sizeof(head), 0)
		 : bpf_skb_store_bytes(skb, at, &head.outer, sizeof(head.outer), 0))
		return broken();
	count_sent(peer, packets, length);
	return send(skb, &way, found);
}

static __always_inline int encap6(struct __sk_buff *skb)
{
	struct ipv6hdr *ip = DATA(skb) + config.tun_header;
	struct { struct outer6 outer; __u8 pulled[PULL6]; } head = {};
	struct bpf_fib_lookup way = { .family = AF_INET6 };
	struct key6 key = { .bits = 128 };
	__u32 length = skb->len - config.tun_header, packets, pull = 0;
	struct peer *peer;
	int found, at;
	__u8 ecn, protocol;

	if ((void *)(ip + 1) > END(skb)) {
		if (bpf_skb_pull_data(skb, config.tun_header + sizeof(*ip)))
			return leave();
		ip = DATA(skb) + config.tun_header;
		if ((void *)(ip + 1) > END(skb))
			return leave();
	}
	__builtin_memcpy(key.address, &ip->daddr, sizeof(key.address));
	peer = bpf_map_lookup_elem(&flannel_peers6, &key);
	if (!peer || length > MOST_UDP || !config.has_source6)
		return leave();
	if (skb->gso_size && ip->nexthdr == IPPROTO_UDP)
		return leave();
	ecn = class6(ip) & ECN;
	protocol = ip->nexthdr;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		way.ipv6_src[i] = config.source6[i];
		way.ipv6_dst[i] = peer->endpoint[i];
		head.outer.ip.saddr.in6_u.u6_addr32[i] = config.source6[i];
		head.outer.ip.daddr.in6_u.u6_addr32[i] = peer->endpoint[i];
	}
	way.dport = peer->port;
	found = look_up(skb, &way, length + sizeof(struct outer6));
	if (found < 0)
		return leave();
	packets = segments(skb, length);
	if (!finished_later(peer, way.ifindex)) {
		__u32 size = length - sizeof(*ip);
		const __u32 *words = (const __u32 *)&ip->saddr;
		__u64 sum = bpf_htonl(size) + (__u64)bpf_htonl(ip->nexthdr);
		int result;

#pragma unroll
		for (int i = 0; i < 8; i++)
			sum += words[i];
		if (to_leave(skb, ip, 0, peer))
			return leave();
		if (ip->nexthdr != IPPROTO_FRAGMENT) {
			result = finish(skb, config.tun_header + sizeof(*ip), size, ip->nexthdr, fold(sum));
			if (result == UNKNOWN)
				return leave();
			if (result == UNFINISHED)
				pull = PULL6;
		}
	}
	if (pull) {
		if (length < PULL6 + 40 && bpf_skb_change_tail(skb, config.tun_header + PULL6 + 40, 0))
			return broken();
		if (bpf_skb_load_bytes(skb, config.tun_header, head.pulled, PULL6) ||
		    bpf_skb_adjust_room(skb, -PULL6, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return broken();
	}
	at = widen(skb, sizeof(struct outer6) + pull, !pull && light(skb, peer, protocol), BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
	if (at < 0)
		return pull || at < -1 ? broken() : leave();
	*(__be32 *)&head.outer.ip = bpf_htonl(6U << 28 | (__u32)ecn << 20 | (within(peer->direct_ns, SHORT_NS) ? UNCUT6 : 0));
	head.outer.ip.hop_limit = OUTER_TTL;
	head.outer.ip.nexthdr = IPPROTO_UDP;
	head.outer.ip.payload_len = bpf_htons(length + sizeof(struct udphdr));
	head.outer.udp.source = config.port;
	head.outer.udp.dest = peer->port;
	head.outer.udp.len = bpf_htons(length + sizeof(struct udphdr));
	/* UDP checksum 0, which RFC 6935 allows a tunnel; a socket must ask for such datagrams (UDP_NO_CHECK6_RX). */
	if (pull ? bpf_skb_store_bytes(skb, at, &head, sizeof(head), 0)
		 : bpf_skb_store_bytes(skb, at, &head.outer, sizeof(head.outer), 0))
		return broken();
	count_sent(peer, packets, length);
	return send(skb, &way, found);
}

#endif
