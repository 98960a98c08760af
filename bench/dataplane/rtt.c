/* Round-trip times of ICMP echo, in nanoseconds.
 *
 *     rtt ADDRESS INTERVAL_MS SECONDS     prints: requests sent, then a line for each answer's time
 *
 * As ping, but finer, and without its own waiting to be woken: a request is stamped just before it is sent, an answer
 * by the kernel when the pod's device receives it (SO_TIMESTAMPNS). A request that is late doesn't delay the next.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 16, STRAGGLERS_NS = 200 * 1000 * 1000 };

static int64_t left_at[MOST], took[MOST]; /* by sequence number; 0: not sent, not answered */
static uint16_t ours;

static void die(const char *what)
{
	fprintf(stderr, "rtt: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t nanoseconds(const struct timespec *time)
{
	return time->tv_sec * 1000000000LL + time->tv_nsec;
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time); /* the clock of SO_TIMESTAMPNS */
	return nanoseconds(&time);
}

static uint16_t checksum(const uint16_t *words, size_t count)
{
	uint32_t sum = 0;

	while (count--)
		sum += *words++;
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static void ask(int fd, const struct sockaddr_in *there, uint16_t sequence)
{
	union {
		struct icmphdr icmp;
		uint16_t words[32];
	} request = { .icmp = { .type = ICMP_ECHO } };

	request.icmp.un.echo.id = ours;
	request.icmp.un.echo.sequence = htons(sequence);
	request.icmp.checksum = checksum(request.words, 32);
	left_at[sequence] = now();
	if (sendto(fd, &request, sizeof request, 0, (const struct sockaddr *)there, sizeof *there) < 0 && errno != ENOBUFS)
		die("sendto");
}

/* Take one packet off the socket. False if there is none. */
static int hear(int fd)
{
	uint8_t packet[2048], control[256];
	struct iovec part = { .iov_base = packet, .iov_len = sizeof packet };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
	};
	ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
	struct icmphdr icmp;
	size_t header;
	uint16_t sequence;

	if (got < 0)
		return errno == EINTR;
	header = (packet[0] & 15) * 4;
	if ((size_t)got < header + sizeof icmp)
		return 1;
	memcpy(&icmp, packet + header, sizeof icmp);
	sequence = ntohs(icmp.un.echo.sequence);
	if (icmp.type != ICMP_ECHOREPLY || icmp.un.echo.id != ours || !left_at[sequence] || took[sequence])
		return 1;
	for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each))
		if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SO_TIMESTAMPNS) {
			struct timespec time;

			memcpy(&time, CMSG_DATA(each), sizeof time);
			took[sequence] = nanoseconds(&time) - left_at[sequence];
		}
	return 1;
}

/* Hear what comes until then. */
static void listen_until(int fd, int64_t until)
{
	struct pollfd watched = { .fd = fd, .events = POLLIN };

	for (int64_t left; (left = until - now()) > 0;) {
		struct timespec wait = { .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };

		ppoll(&watched, 1, &wait, NULL);
		while (hear(fd))
			;
	}
}

int main(int count, char **words)
{
	struct sockaddr_in there = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), yes = 1, asked = 0;
	int64_t interval, until;

	if (count != 4 || inet_pton(AF_INET, words[1], &there.sin_addr) != 1 || atof(words[2]) <= 0) {
		fprintf(stderr, "usage: rtt ADDRESS INTERVAL_MS SECONDS\n");
		return 2;
	}
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof yes) < 0)
		die("ICMP socket");
	prctl(PR_SET_TIMERSLACK, 1UL);
	ours = htons(getpid() & 0xffff);
	interval = (int64_t)(atof(words[2]) * 1e6);
	until = now() + (int64_t)(atof(words[3]) * 1e9);
	while (asked < MOST && now() < until) {
		ask(fd, &there, asked++);
		listen_until(fd, left_at[asked - 1] + interval);
	}
	listen_until(fd, now() + STRAGGLERS_NS);
	printf("%d\n", asked);
	for (int at = 0; at < asked; at++)
		if (took[at] > 0)
			printf("%lld\n", (long long)took[at]);
	return 0;
}
