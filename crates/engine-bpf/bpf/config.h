/* What the loader tells the programs: constants at load time, so that the verifier drops what isn't used. */
#ifndef FLANNEL_CONFIG_H
#define FLANNEL_CONFIG_H

#define MOST 8 /* own subnets, local addresses, devices: of each kind at most so many */

struct in4 {
	__be32 address, mask;
};

struct in6 {
	__u32 address[4], mask[4];
};

/* The same in src/abi.rs. Addresses are in network order. */
struct config {
	__u32 tun;		/* index of the TUN device */
	__u32 tun_header;	/* bytes of link header on it: none; 14 if the device has Ethernet headers */
	__u32 joiner;		/* index of the device through which GRO joins TCP segments; 0: none */
	__u32 fresh_ns;		/* so long after a datagram of its kernel's engine, a peer counts as having one */
	__be16 port;		/* of the wire format, both ends */
	__u8 own4s, own6s, local4s, local6s, finishings, has_source4, has_source6;
	__u8 pad[3];
	__be32 source4;		/* outer source address */
	__u32 source6[4];
	__be32 local4[MOST];	/* addresses at which datagrams are ours */
	__u32 local6[MOST][4];
	struct in4 own4[MOST];	/* our subnets */
	struct in6 own6[MOST];
	__u32 finishing[MOST];	/* indexes of devices that finish checksums before the wire */
};

extern const volatile struct config config;

#endif
