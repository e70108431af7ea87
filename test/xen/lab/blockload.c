/* Block load for guests: N threads, each with one O_DIRECT request under way. Prints one line of JSON.
 *
 *   blockload DEVICE read|write sequential|random BLOCK-SIZE DEPTH SECONDS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { max_depth = 256, max_samples = 1 << 18 };

static int device, writing, is_random;
static uint64_t block_size, blocks;
static unsigned depth;
static double deadline;

struct worker {
  pthread_t thread;
  unsigned number;
  uint64_t operations;
  uint32_t samples;
  uint32_t *microseconds;
  int error;
};

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void *work(void *argument) {
  struct worker *self = argument;
  uint64_t state = 0x9e3779b97f4a7c15ull * (self->number + 1), next = self->number;
  void *buffer;
  if (posix_memalign(&buffer, 4096, block_size)) {
    self->error = ENOMEM;
    return NULL;
  }
  memset(buffer, 'a' + self->number % 26, block_size);
  for (double start = now(); start < deadline;) {
    uint64_t block = next % blocks;
    if (is_random) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      block = state % blocks;
    }
    next += depth;
    ssize_t done = writing ? pwrite(device, buffer, block_size, block * block_size)
                           : pread(device, buffer, block_size, block * block_size);
    if (done != (ssize_t)block_size) {
      self->error = done < 0 ? errno : EIO;
      break;
    }
    double end = now();
    if (self->samples < max_samples / depth) self->microseconds[self->samples++] = (end - start) * 1e6;
    self->operations++;
    start = end;
  }
  free(buffer);
  return NULL;
}

static int by_value(const void *left, const void *right) {
  uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
  return a < b ? -1 : a > b;
}

int main(int count, char **words) {
  static struct worker workers[max_depth];
  if (count != 7) {
    fprintf(stderr, "usage: blockload DEVICE read|write sequential|random BLOCK-SIZE DEPTH SECONDS\n");
    return 2;
  }
  writing = !strcmp(words[2], "write");
  is_random = !strcmp(words[3], "random");
  block_size = strtoull(words[4], NULL, 10);
  depth = strtoul(words[5], NULL, 10);
  double seconds = strtod(words[6], NULL);
  uint64_t size;
  device = open(words[1], (writing ? O_RDWR : O_RDONLY) | O_DIRECT);
  if (device < 0 || ioctl(device, BLKGETSIZE64, &size)) {
    perror(words[1]);
    return 1;
  }
  if (!depth || depth > max_depth || !block_size || block_size % 512 || block_size > size) {
    fprintf(stderr, "blockload: depth 1 to %d; block size a multiple of 512, at most the device's\n", max_depth);
    return 2;
  }
  blocks = size / block_size;
  uint32_t *all = calloc(max_samples, sizeof *all), samples = 0;
  double start = now();
  deadline = start + seconds;
  for (unsigned i = 0; i < depth; i++) {
    workers[i].number = i;
    workers[i].microseconds = calloc(max_samples / depth, sizeof *all);
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
      perror("blockload: thread");
      return 1;
    }
  }
  uint64_t operations = 0;
  for (unsigned i = 0; i < depth; i++) {
    pthread_join(workers[i].thread, NULL);
    if (workers[i].error) {
      fprintf(stderr, "blockload: %s: %s\n", words[2], strerror(workers[i].error));
      return 1;
    }
    operations += workers[i].operations;
    memcpy(all + samples, workers[i].microseconds, workers[i].samples * sizeof *all);
    samples += workers[i].samples;
  }
  double taken = now() - start;
  qsort(all, samples, sizeof *all, by_value);
  printf("{\"operation\":\"%s\",\"order\":\"%s\",\"blockSize\":%llu,\"depth\":%u,\"seconds\":%.3f,\"operations\":%llu,"
         "\"bytesPerSecond\":%.0f,\"p50Microseconds\":%u,\"p99Microseconds\":%u}\n",
         words[2], words[3], (unsigned long long)block_size, depth, taken, (unsigned long long)operations,
         operations * (double)block_size / taken, samples ? all[samples / 2] : 0,
         samples ? all[(uint64_t)samples * 99 / 100] : 0);
  return 0;
}
