/*
 * Decapsulation, in two places.
 *
 * XDP, on a driver's raw frame: the outer headers are cut off before GRO, which then joins the inner TCP
 * segments as if they had never been wrapped. The frame bears a mark (metadata) from here to the tc hook.
 * tc ingress: redirects what bears the mark to the TUN device, and decapsulates what came without XDP.
 *
 * Either way the inner packet comes in on the TUN device, as one that the user-space engine wrote there
 * would: strict rp_filter, firewall rules by interface and captures see no difference.
 */
#ifndef FLANNEL_DECAP_H
#define FLANNEL_DECAP_H

#define ETH 14
#define MARK 0x666c616e		/* in the frame's metadata: admitted and cut by our XDP program */

struct mark {
	__u32 what;
};

#define DATA(context) ((void *)(long)(context)->data)
#define END(context) ((void *)(long)(context)->data_end)

static __always_inline __u32 segments(const struct __sk_buff *skb, __u32 length)
{
	__u32 size = skb->gso_size;

	if (!size || length <= size)
		return 1;
	return (length + size - 1) / size;
}

/* RFC 6040 4.2: what the path marked is marked inside. Only CE needs it, and ECT(1) over ECT(0). */
static __always_inline int carry_ecn4(struct __sk_buff *skb, __u32 at, __u8 ecn)
{
	__u16 before, after;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return -1;
	after = before;
	if (ecn == CE || (ecn == 1 && (before & bpf_htons(ECN)) == bpf_htons(2)))
		after = (before & ~bpf_htons(ECN)) | bpf_htons(ecn);
	if (after == before)
		return 0;
	if (bpf_l3_csum_replace(skb, at + offsetof(struct iphdr, check), before, after, sizeof(after)))
		return -1;
	return bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0);
}

static __always_inline int carry_ecn6(struct __sk_buff *skb, __u32 at, __u8 ecn)
{
	__be16 before, after;

	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return -1;
	after = before;
	if (ecn == CE || (ecn == 1 && (before & bpf_htons(ECN << 4)) == bpf_htons(2 << 4)))
		after = (before & ~bpf_htons(ECN << 4)) | bpf_htons(ecn << 4);
	if (after == before)
		return 0;
	return bpf_skb_store_bytes(skb, at, &after, sizeof(after), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline int pass_up(void)
{
	count(PASSED_RX);
	return TC_ACT_UNSPEC;
}

/*
 * Should this TCP packet, decapsulated already, take the way round that lets GRO join it with its neighbours?
 * GRO was before us and saw UDP only. Not where segments come joined (a veth that super-packets cross uncut):
 * two ways at once would put packets out of order. Nor what GRO never joins, a mere acknowledgement.
 */
static __always_inline int to_join(struct __sk_buff *skb, __u32 header, int four, struct found *found)
{
	if (skb->gso_size) {
		note(&found->peer->joined_ns);
		if (found->ttl == OUTER_TTL)
			note_within(&found->peer->direct_ns, SHORT_NS);
		return 0;
	}
	if (!config.joiner || lately(found->peer->joined_ns))
		return 0;
	if (DATA(skb) + header + (four ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) > END(skb))
		return 1;
	return !only_acknowledges(DATA(skb) + header, END(skb), four);
}

/* Let the first `bytes` lie where they can be read, if there are so many. It costs: only what is needed. */
static __always_inline void need(struct __sk_buff *skb, __u32 bytes)
{
	if (DATA(skb) + bytes > END(skb) && skb->len >= bytes)
		bpf_skb_pull_data(skb, bytes);
}

/* `header`: bytes of the device's link header. */
static __always_inline int decap_tc(struct __sk_buff *skb, const __u32 header)
{
	struct mark *mark = (void *)(long)skb->data_meta;
	struct found found = {};
	__u32 packets;
	int verdict, four;

	/* Somebody else's frame, or one with a VLAN tag (taken off already): it's for the VLAN's device. */
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return TC_ACT_UNSPEC;
	if ((void *)(mark + 1) <= DATA(skb) && mark->what == MARK)
		return bpf_redirect(config.tun, BPF_F_INGRESS);
	four = skb->protocol == bpf_htons(ETH_P_IP);
	if (four) {
		struct outer4 *outer = DATA(skb) + header;
		struct iphdr *ip;

		/* Most of what isn't ours leaves here. */
		if ((void *)(outer + 1) <= END(skb) &&
		    (outer->ip.protocol != IPPROTO_UDP || (outer->ip.ihl == 5 && outer->udp.dest != config.port)))
			return TC_ACT_UNSPEC;
		need(skb, header + sizeof(*outer) + sizeof(struct iphdr));
		outer = DATA(skb) + header;
		ip = (void *)(outer + 1);
		if ((void *)(ip + 1) <= END(skb) && ip->ihl > 5)
			need(skb, header + sizeof(*outer) + ip->ihl * 4);
		verdict = admit4(DATA(skb) + header, END(skb), skb->len - header, &found);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct outer6 *outer = DATA(skb) + header;

		if ((void *)(outer + 1) <= END(skb) &&
		    (outer->ip.nexthdr != IPPROTO_UDP || outer->udp.dest != config.port))
			return TC_ACT_UNSPEC;
		need(skb, header + sizeof(*outer) + sizeof(struct ipv6hdr));
		verdict = admit6(DATA(skb) + header, END(skb), skb->len - header, &found);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (verdict == PASS)
		return TC_ACT_UNSPEC;
	if (verdict == LEFT)
		return pass_up();
	if (verdict != ADMITTED || !found.peer)
		return TC_ACT_SHOT;
	packets = segments(skb, found.length);
	if (bpf_skb_adjust_room(skb, four ? -(__s32)sizeof(struct outer4) : -(__s32)sizeof(struct outer6),
				BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return pass_up();
	if (found.ecn && (four ? carry_ecn4(skb, header, found.ecn) : carry_ecn6(skb, header, found.ecn))) {
		count(IO);
		return TC_ACT_SHOT;
	}
	count_received(found.peer, packets, found.length);
	if (found.protocol == IPPROTO_TCP && to_join(skb, header, four, &found))
		return bpf_redirect(config.joiner, 0);
	return bpf_redirect(config.tun, BPF_F_INGRESS);
}

/* tc ingress behind GRO: a packet for another's MAC address, as it has the underlay's header still. */
static __always_inline int deliver(struct __sk_buff *skb)
{
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect(config.tun, BPF_F_INGRESS);
}

static __always_inline void ecn_xdp4(struct iphdr *ip, __u8 ecn)
{
	__u16 before = *(__u16 *)ip, after = before;
	__u32 sum;

	if (ecn == CE || (ecn == 1 && (ip->tos & ECN) == 2))
		after = (before & ~bpf_htons(ECN)) | bpf_htons(ecn);
	if (after == before)
		return;
	/* RFC 1624, equation 3. */
	sum = (__u16)~ip->check + (__u16)~before + after;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum;
	*(__u16 *)ip = after;
}

static __always_inline int decap_xdp(struct xdp_md *xdp, __u32 frame)
{
	struct ethhdr *eth = DATA(xdp), saved;
	struct found found = {};
	struct mark *mark;
	int verdict, four;

	if ((void *)(eth + 1) > END(xdp) || eth->h_dest[0] & 1)
		return XDP_PASS;
	four = eth->h_proto == bpf_htons(ETH_P_IP);
	if (four)
		verdict = admit4(eth + 1, END(xdp), frame - sizeof(*eth), &found);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		verdict = admit6(eth + 1, END(xdp), frame - sizeof(*eth), &found);
	else
		return XDP_PASS;
	if (verdict == PASS || verdict == LEFT)
		return XDP_PASS;
	if (verdict != ADMITTED || !found.peer)
		return XDP_DROP;
	__builtin_memcpy(&saved, eth, sizeof(saved));
	/* No room for the mark (the driver has no metadata): tc does it all. */
	if (bpf_xdp_adjust_meta(xdp, -(int)sizeof(*mark)))
		return XDP_PASS;
	if (bpf_xdp_adjust_head(xdp, four ? (int)sizeof(struct outer4) : (int)sizeof(struct outer6))) {
		bpf_xdp_adjust_meta(xdp, sizeof(*mark));
		return XDP_PASS;
	}
	mark = (void *)(long)xdp->data_meta;
	eth = DATA(xdp);
	if ((void *)(mark + 1) > (void *)eth || (void *)(eth + 1) + sizeof(struct iphdr) > END(xdp)) {
		count(IO);
		return XDP_DROP;
	}
	mark->what = MARK;
	__builtin_memcpy(eth, &saved, sizeof(saved));
	if (found.ecn && four) {
		ecn_xdp4((struct iphdr *)(eth + 1), found.ecn);
	} else if (found.ecn) {
		__be16 *word = (__be16 *)(eth + 1);

		if (found.ecn == CE || (found.ecn == 1 && (*word & bpf_htons(ECN << 4)) == bpf_htons(2 << 4)))
			*word = (*word & ~bpf_htons(ECN << 4)) | bpf_htons(found.ecn << 4);
	}
	count_received(found.peer, 1, found.length);
	return XDP_PASS;
}

#endif
