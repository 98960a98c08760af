// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The kernel engine of the udp backend: flannel's wire format (outer IP, UDP, bare inner IP packet)
 * in the kernel, between a TUN device and the underlay.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10

#include "config.h"
#include "maps.h"
#include "headers.h"
#include "admit.h"
#include "decap.h"
#include "finish.h"
#include "encap.h"

const volatile struct config config = {};

/* tc egress of the TUN device. */
SEC("classifier")
int flannel_encap(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return encap4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return encap6(skb);
	return TC_ACT_UNSPEC;
}

/* tc ingress of an underlay device with Ethernet headers. */
SEC("classifier")
int flannel_decap(struct __sk_buff *skb)
{
	return decap_tc(skb, ETH);
}

/* The same of one without link headers, such as another tunnel. */
SEC("classifier")
int flannel_decap_l3(struct __sk_buff *skb)
{
	return decap_tc(skb, 0);
}

/* tc ingress behind the device that joins TCP segments. */
SEC("classifier")
int flannel_deliver(struct __sk_buff *skb)
{
	return deliver(skb);
}

/* XDP of an underlay device; frames in one buffer. */
SEC("xdp")
int flannel_xdp(struct xdp_md *xdp)
{
	return decap_xdp(xdp, xdp->data_end - xdp->data);
}

/* The same for drivers that give large frames in several buffers (Linux 5.18). */
SEC("xdp.frags")
int flannel_frags(struct xdp_md *xdp)
{
	return decap_xdp(xdp, bpf_xdp_get_buff_len(xdp));
}

/* Most helpers are for GPL-compatible programs only. */
char _license[] SEC("license") = "GPL";
