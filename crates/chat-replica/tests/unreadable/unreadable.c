/* A disk with sectors that cannot be read, preloaded into one process by crates/chat-replica/tests/unreadable.rs.
 *
 * UNREADABLE   path:from:to[,path:from:to...], in bytes: of the files that have these names when the process first reads or writes
 *              anything. They are known by their inode from then on, as sectors are: a file that is made anew under the same name is sound, and
 *              one that is renamed is not.
 *
 * A read ends before the first byte that cannot be read, and one that begins there fails with EIO. So does a write over a part of what cannot
 * be read: the kernel would have to read the rest. A write over all of it makes it sound: the disk has sectors in reserve.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 8 };

static struct {
    dev_t device;
    ino_t inode;
    off_t from, to;
} bad[MOST];
static int count;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static ssize_t (*real_read)(int, void *, size_t), (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t), (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_copy)(int, off_t *, int, off_t *, size_t, unsigned), (*real_send)(int, int, off_t *, size_t);

static void begin(void) {
    real_read = dlsym(RTLD_NEXT, "read");
    real_pread = dlsym(RTLD_NEXT, "pread");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_copy = dlsym(RTLD_NEXT, "copy_file_range");
    real_send = dlsym(RTLD_NEXT, "sendfile");
    const char *words = getenv("UNREADABLE");
    if (words == NULL)
        return;
    char *all = strdup(words), *rest = all, *one;
    while ((one = strsep(&rest, ",")) != NULL && count < MOST) {
        char *to = strrchr(one, ':');
        *to++ = 0;
        char *from = strrchr(one, ':');
        *from++ = 0;
        struct stat file;
        /* Never closed: no other file gets its inode. */
        if (open(one, O_RDONLY | O_CLOEXEC) < 0 || stat(one, &file) != 0) {
            fprintf(stderr, "unreadable: there is no %s\n", one);
            abort();
        }
        bad[count].device = file.st_dev;
        bad[count].inode = file.st_ino;
        bad[count].from = atoll(from);
        bad[count++].to = atoll(to);
    }
    free(all);
}

/* How many of these bytes can be read; -1 if that ends at the first. */
static ssize_t readable(int fd, size_t amount, off_t at) {
    struct stat file;
    pthread_once(&once, begin);
    if (count == 0 || amount == 0 || at < 0 || fstat(fd, &file) != 0)
        return (ssize_t)amount;
    for (int i = 0; i < count; i++) {
        if (bad[i].device != file.st_dev || bad[i].inode != file.st_ino || at >= bad[i].to || at + (off_t)amount <= bad[i].from)
            continue;
        if (at >= bad[i].from) {
            errno = EIO;
            return -1;
        }
        amount = (size_t)(bad[i].from - at);
    }
    return (ssize_t)amount;
}

ssize_t pread(int fd, void *out, size_t amount, off_t at) {
    ssize_t some = readable(fd, amount, at);
    return some < 0 ? some : real_pread(fd, out, (size_t)some, at);
}

ssize_t pread64(int fd, void *out, size_t amount, off_t at) {
    return pread(fd, out, amount, at);
}

ssize_t read(int fd, void *out, size_t amount) {
    int before = errno;
    ssize_t some = readable(fd, amount, lseek(fd, 0, SEEK_CUR));
    if (some < 0)
        return some;
    errno = before;
    return real_read(fd, out, (size_t)some);
}

/* Whether these bytes can be written. */
static int writable(int fd, size_t amount, off_t at) {
    struct stat file;
    int before = errno;
    if (readable(fd, amount, at) == (ssize_t)amount || fstat(fd, &file) != 0) {
        errno = before;
        return 1;
    }
    for (int i = 0; i < count; i++)
        if (bad[i].device == file.st_dev && bad[i].inode == file.st_ino && at <= bad[i].from && bad[i].to <= at + (off_t)amount)
            bad[i].to = bad[i].from;
    errno = EIO;
    if (readable(fd, amount, at) != (ssize_t)amount)
        return 0;
    errno = before;
    return 1;
}

ssize_t pwrite(int fd, const void *bytes, size_t amount, off_t at) {
    return writable(fd, amount, at) ? real_pwrite(fd, bytes, amount, at) : -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t amount, off_t at) {
    return pwrite(fd, bytes, amount, at);
}

ssize_t write(int fd, const void *bytes, size_t amount) {
    return writable(fd, amount, lseek(fd, 0, SEEK_CUR)) ? real_write(fd, bytes, amount) : -1;
}

/* What is copied in the kernel would go past the others. */
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t amount, unsigned flags) {
    pthread_once(&once, begin);
    if (count == 0)
        return real_copy(from, from_at, to, to_at, amount, flags);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile(int to, int from, off_t *at, size_t amount) {
    pthread_once(&once, begin);
    if (count == 0)
        return real_send(to, from, at, amount);
    errno = ENOSYS;
    return -1;
}

ssize_t sendfile64(int to, int from, off_t *at, size_t amount) {
    return sendfile(to, from, at, amount);
}
