/* State that outlives the programs: peers and counters. Pinned by the loader. */
#ifndef FLANNEL_MAPS_H
#define FLANNEL_MAPS_H

/* The same in src/abi.rs; a change of any of these needs another ABI number there. */
struct key4 {
	__u32 bits;
	__be32 address;
};

struct key6 {
	__u32 bits;
	__u32 address[4];
};

struct peer {
	__u32 endpoint[4];	/* IPv4: only the first word */
	__u32 id;		/* key of its counters */
	__be16 port;
	__u16 pad;
	__u64 seen_ns;		/* when its kernel's engine was last heard, in nanoseconds since boot */
	/* When it was last so, in the same clock. One flow's packets must not take two ways at once. */
	__u64 joined_ns;	/* TCP segments came joined from it */
	__u64 direct_ns;	/* they did, and crossed no router: it is told so */
	__u64 uncut_ns;		/* it told that ours do: see light() in encap.h */
	__u64 train_in_ns;	/* a train of its datagrams was left to the socket's reader */
	__u64 train_out_ns;	/* a super-packet for it was left to the TUN device's reader */
};

/* Inner packets and their bytes. */
struct traffic {
	__u64 tx_packets, tx_bytes, rx_packets, rx_bytes, drops;
};

struct endpoint {
	__u32 address[4];
};

enum {
	NO_ROUTE, NOT_A_PEER, SPOOFED_SOURCE, NOT_OURS, MALFORMED, TOO_BIG, IO, /* reasons of drops */
	PASSED_TX, PASSED_RX,	/* left to the user-space engine */
	COUNTS,
	ADMITTED = COUNTS,
	PASS,		/* no datagram of ours */
	LEFT,		/* one that the user-space engine takes, from the socket */
};

struct counts {
	__u64 of[COUNTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key4);
	__type(value, struct peer);
} flannel_peers4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key6);
	__type(value, struct peer);
} flannel_peers6 SEC(".maps");

/* A peer's id by its endpoint: tells a stranger from a peer that sends what isn't its own. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} flannel_ends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct traffic);
} flannel_traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} flannel_counts SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u32 zero = 0;
	struct counts *counts = bpf_map_lookup_elem(&flannel_counts, &zero);

	if (counts && what < COUNTS)
		counts->of[what]++;
}

/* How long "lately" is, of `uncut_ns` and `direct_ns`: below TCP's shortest retransmission timeout (200 ms) together. */
#define SHORT_NS 50000000ULL

static __always_inline int within(__u64 when, __u64 span)
{
	return when && bpf_ktime_get_coarse_ns() - when < span;
}

static __always_inline int lately(__u64 when)
{
	return within(when, config.fresh_ns);
}

/* Written seldom, as other processors read the same line. */
static __always_inline void note_within(__u64 *when, __u64 span)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (now - *when > span / 8)
		*when = now;
}

static __always_inline void note(__u64 *when)
{
	note_within(when, config.fresh_ns);
}

static __always_inline void count_sent(const struct peer *peer, __u32 packets, __u32 bytes)
{
	__u32 id = peer->id;
	struct traffic *traffic = bpf_map_lookup_elem(&flannel_traffic, &id);

	if (traffic) {
		traffic->tx_packets += packets;
		traffic->tx_bytes += bytes;
	}
}

static __always_inline void count_received(const struct peer *peer, __u32 packets, __u32 bytes)
{
	__u32 id = peer->id;
	struct traffic *traffic = bpf_map_lookup_elem(&flannel_traffic, &id);

	if (traffic) {
		traffic->rx_packets += packets;
		traffic->rx_bytes += bytes;
	}
}

#endif
