/* A data plane of one packet per system call, on one thread: a stand-in for flannel's C proxy, of the same structure.
 *
 *     naive DEVICE LOCAL PORT REMOTE
 *
 * Attaches to the TUN device DEVICE, which is up and routed already, and carries its packets in UDP between LOCAL and
 * REMOTE (IPv4), PORT to PORT. Each turn polls, then reads one packet and sends it, then receives one and writes it,
 * until neither has any. Like flannel's it takes a TTL from each packet on either side, and looks its peer up, here in
 * a table of one. Runs until it is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 20, TTL_AT = 8, SUM_AT = 10, ROOM = 65536 };

static uint8_t packet[ROOM];

static void die(const char *what)
{
	fprintf(stderr, "naive: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_tun(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	if (fd < 0)
		die("/dev/net/tun");
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		die(name);
	return fd;
}

static struct sockaddr_in endpoint(const char *address, const char *port)
{
	struct sockaddr_in found = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	if (inet_pton(AF_INET, address, &found.sin_addr) != 1) {
		fprintf(stderr, "naive: %s is no IPv4 address\n", address);
		exit(1);
	}
	return found;
}

/* Take one from the TTL and mend the checksum (RFC 1141). False if the packet has come to its end. */
static int hop(uint8_t *header)
{
	uint32_t sum;

	if (header[TTL_AT] <= 1)
		return 0;
	header[TTL_AT]--;
	sum = (uint32_t)(header[SUM_AT] << 8 | header[SUM_AT + 1]) + 0x100;
	sum += sum >> 16;
	header[SUM_AT] = sum >> 8;
	header[SUM_AT + 1] = sum;
	return 1;
}

static int tun_to_udp(int tun, int udp, const struct sockaddr_in *peer)
{
	ssize_t got = read(tun, packet, ROOM);

	if (got < 0 && errno != EAGAIN)
		die("read of the TUN device");
	if (got >= HEADER && hop(packet))
		sendto(udp, packet, got, 0, (const struct sockaddr *)peer, sizeof *peer);
	return got > 0;
}

static int udp_to_tun(int tun, int udp)
{
	ssize_t got = recv(udp, packet, ROOM, MSG_DONTWAIT);

	if (got >= HEADER && hop(packet) && write(tun, packet, got) < 0 && errno == EBADFD)
		die("write to the TUN device");
	return got > 0;
}

int main(int count, char **words)
{
	struct sockaddr_in local, peer;
	struct pollfd watched[2];
	int tun, udp;

	if (count != 5) {
		fprintf(stderr, "usage: naive DEVICE LOCAL PORT REMOTE\n");
		return 2;
	}
	local = endpoint(words[2], words[3]);
	peer = endpoint(words[4], words[3]);
	tun = open_tun(words[1]);
	udp = socket(AF_INET, SOCK_DGRAM, 0);
	if (udp < 0 || bind(udp, (struct sockaddr *)&local, sizeof local) < 0)
		die("UDP socket");
	watched[0] = (struct pollfd){ .fd = tun, .events = POLLIN };
	watched[1] = (struct pollfd){ .fd = udp, .events = POLLIN };
	for (;;) {
		int active;

		if (poll(watched, 2, -1) < 0 && errno != EINTR)
			die("poll");
		do {
			active = tun_to_udp(tun, udp, &peer);
			active |= udp_to_tun(tun, udp);
		} while (active);
	}
}
