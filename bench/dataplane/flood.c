/* UDP packets, sent as fast as the kernel takes them or at a rate, and counted where they arrive.
 *
 *     flood send ADDRESS PORT BYTES SECONDS RATE    prints: packets sent, seconds taken
 *     flood count ADDRESS PORT BYTES                prints "ready", at SIGTERM: packets of that size that came
 *
 * BYTES are the payload's; RATE is in packets per second, 0 for no limit. Batches of system calls (sendmmsg, recvmmsg)
 * keep the measuring itself small, but each packet is one of its own: no UDP_SEGMENT, no UDP_GRO.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FLOOD_BATCH = 32, PACED_BATCH = 8, LARGEST = 9000, BUFFER = 16 << 20 };

static struct mmsghdr messages[FLOOD_BATCH];
static struct iovec parts[FLOOD_BATCH];
static uint8_t payloads[FLOOD_BATCH][LARGEST];
static volatile sig_atomic_t over;

static void end(int number)
{
	(void)number;
	over = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_udp(const char *address, const char *port, struct sockaddr_in *there)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER;

	*there = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	if (inet_pton(AF_INET, address, &there->sin_addr) != 1 || fd < 0)
		die(address);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	return fd;
}

static void prepare(size_t bytes)
{
	for (int at = 0; at < FLOOD_BATCH; at++) {
		parts[at] = (struct iovec){ .iov_base = payloads[at], .iov_len = bytes };
		messages[at].msg_hdr.msg_iov = &parts[at];
		messages[at].msg_hdr.msg_iovlen = 1;
	}
}

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void sleep_until(int64_t when)
{
	struct timespec time = { .tv_sec = when / 1000000000, .tv_nsec = when % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static void send_all(int fd, double seconds, double rate)
{
	int batch = rate > 0 ? PACED_BATCH : FLOOD_BATCH;
	int64_t began = now(), until = began + (int64_t)(seconds * 1e9), due = began, sent = 0;

	prctl(PR_SET_TIMERSLACK, 1UL);
	while (!over && now() < until) {
		int done = sendmmsg(fd, messages, batch, 0);

		if (done < 0 && errno != ENOBUFS && errno != ECONNREFUSED && errno != EINTR)
			die("sendmmsg");
		sent += done > 0 ? done : 0;
		if (rate > 0) {
			due += (int64_t)(batch / rate * 1e9);
			sleep_until(due);
		}
	}
	printf("%lld %.6f\n", (long long)sent, (now() - began) / 1e9);
}

static void count_all(int fd, size_t bytes)
{
	int64_t came = 0;

	puts("ready");
	fflush(stdout);
	while (!over) {
		int got = recvmmsg(fd, messages, FLOOD_BATCH, MSG_WAITFORONE, NULL);

		for (int at = 0; at < got; at++)
			came += messages[at].msg_len == bytes;
	}
	printf("%lld\n", (long long)came);
}

int main(int count, char **words)
{
	struct sigaction action = { .sa_handler = end }; /* without SA_RESTART: recvmmsg comes back */
	struct sockaddr_in there;
	size_t bytes = count > 4 ? strtoul(words[4], NULL, 10) : 0;
	int fd, sending = count == 7 && !strcmp(words[1], "send");

	if ((!sending && (count != 5 || strcmp(words[1], "count"))) || bytes == 0 || bytes > LARGEST) {
		fprintf(stderr, "usage: flood send ADDRESS PORT BYTES SECONDS RATE | flood count ADDRESS PORT BYTES\n");
		return 2;
	}
	sigaction(SIGTERM, &action, NULL);
	fd = open_udp(words[2], words[3], &there);
	prepare(bytes);
	if (sending) {
		if (connect(fd, (struct sockaddr *)&there, sizeof there) < 0)
			die("connect");
		send_all(fd, atof(words[5]), atof(words[6]));
	} else {
		if (bind(fd, (struct sockaddr *)&there, sizeof there) < 0)
			die("bind");
		count_all(fd, bytes);
	}
	return 0;
}
