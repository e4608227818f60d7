/* A power supply for one process, preloaded into it by bins/tests/power_cut.rs.
 *
 * The page cache survives kill -9, and not a power cut. So this keeps beside the watched folder what a power cut would leave of
 * it, its "platter": a file's content as of its last fsync, and a directory's entries as of that directory's last fsync. Syncs
 * copy to the platter what has changed, and nothing else does, but for the writes that a kernel may do by itself at any time
 * (POWERCUT_WRITEBACK). At the sync that the test has chosen, the power goes: the process gets SIGKILL, with all others on the
 * same supply. The test makes the folder anew from the platter.
 *
 * POWERCUT_ROOT      the watched folder, without symbolic links
 * POWERCUT_PLATTER   f<inode>: contents; d<inode>: entries, one a line: type, inode, name; g<inode>: unlinked files, kept so that
 *                    no inode number is given out twice. On the file system of the watched folder
 * POWERCUT_CONTROL   a file that all on one supply map: eight words of 32 bits for each machine, see below
 * POWERCUT_MACHINE   which of them is this one
 * POWERCUT_WRITEBACK of 1000 writes, how many the kernel brings to the platter by itself, in whole sectors of 512 bytes
 * POWERCUT_SEED      for choosing those
 * POWERCUT_LIES      if set, a disk that says that it has synced and has not: the test must notice
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OFF, COUNT, AT, WHEN, MASK, CUT, WORDS = 8, MACHINES = 8 };
enum { BEFORE, AFTER };
enum { SECTOR = 512, CHUNK = 1 << 16 };

static int (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);
static int (*real_unlinkat)(int, const char *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

static char root[PATH_MAX / 2], platter[PATH_MAX / 2];
static size_t root_length;
static _Atomic uint32_t *control, *mine;
static uint64_t writeback, seed;
static int lies;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what) {
    fprintf(stderr, "powercut: %s failed\n", what);
    kill(getpid(), SIGABRT);
}

static void black_out(void) {
    for (;;)
        kill(getpid(), SIGKILL);
}

/* The power goes, for all whose bit is set in the mask. */
static void cut(void) {
    mine[CUT] = 1;
    uint32_t mask = mine[MASK];
    for (int machine = 0; machine < MACHINES; machine++)
        /* Not its own: its watcher would end it before the others are told. */
        if (mask >> machine & 1 && control + machine * WORDS != mine) {
            control[machine * WORDS + OFF] = 1;
            syscall(SYS_futex, &control[machine * WORDS + OFF], FUTEX_WAKE, 1, NULL, NULL, 0);
        }
    black_out();
}

static void *watch_supply(void *unused) {
    /* The test cannot wake a futex: so it is looked at now and then, too. */
    struct timespec pause = {0, 1000000};
    while (!mine[OFF])
        syscall(SYS_futex, &mine[OFF], FUTEX_WAIT, 0, &pause, NULL, 0);
    black_out();
    return unused;
}

static int is_watched(int fd, struct stat *at) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)root_length || strncmp(path, root, root_length) || fstat(fd, at))
        return 0;
    path[length] = 0;
    return path[root_length] == '/' || !path[root_length];
}

static void name_of(char *path, char kind, ino_t inode) {
    snprintf(path, PATH_MAX, "%s/%c%llu", platter, kind, (unsigned long long)inode);
}

/* Copies what differs in [from, to) of a file to the platter. */
static void copy_range(int fd, ino_t inode, off_t from, off_t to, int whole) {
    static char now[CHUNK], then[CHUNK];
    char path[PATH_MAX];
    int in = fd, flags = fcntl(fd, F_GETFL);
    /* What is written past the page cache cannot be read into any buffer. */
    if ((flags & O_ACCMODE) == O_WRONLY || flags & O_DIRECT) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        in = open(path, O_RDONLY | O_CLOEXEC);
    }
    name_of(path, 'f', inode);
    int out = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (in < 0 || out < 0)
        die("opening for a copy");
    while (from < to) {
        size_t most = to - from < CHUNK ? (size_t)(to - from) : CHUNK;
        ssize_t got = pread(in, now, most, from);
        if (got < 0)
            die("reading for a copy");
        if (got == 0)
            break;
        if (pread(out, then, (size_t)got, from) != got || memcmp(now, then, (size_t)got))
            if (real_pwrite(out, now, (size_t)got, from) != got)
                die("copying");
        from += got;
    }
    if (whole && ftruncate(out, to))
        die("truncating");
    close(out);
    if (in != fd)
        close(in);
}

static void copy_entries(int fd, ino_t inode) {
    char path[PATH_MAX], new[PATH_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *directory = opendir(path);
    name_of(new, 'n', inode);
    FILE *list = fopen(new, "we");
    if (!directory || !list)
        die("listing a directory");
    for (struct dirent *entry; (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            fprintf(list, "%c %llu %s\n", entry->d_type == DT_DIR ? 'd' : 'f', (unsigned long long)entry->d_ino, entry->d_name);
    closedir(directory);
    name_of(path, 'd', inode);
    if (fclose(list) || real_rename(new, path))
        die("writing a directory's entries");
}

static int synced(int fd, int (*real)(int)) {
    struct stat at;
    if (!mine || !is_watched(fd, &at))
        return real(fd);
    pthread_mutex_lock(&lock);
    /* At that sync; or at the next, if it was just over when the test said so. */
    int now = ++mine[COUNT] >= mine[AT] && mine[AT];
    if (now && mine[WHEN] == BEFORE)
        cut();
    if (lies)
        ;
    else if (S_ISDIR(at.st_mode))
        copy_entries(fd, at.st_ino);
    else
        copy_range(fd, at.st_ino, 0, at.st_size, 1);
    if (now)
        cut();
    pthread_mutex_unlock(&lock);
    /* The real disk is not asked: SIGKILL leaves the page cache, and the test looks at nothing else. */
    return 0;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

/* splitmix64 */
static uint64_t next_random(void) {
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static ssize_t written(int fd, const void *bytes, size_t count, off_t offset) {
    ssize_t done = real_pwrite(fd, bytes, count, offset);
    struct stat at;
    if (!mine || !writeback || done <= 0 || !is_watched(fd, &at))
        return done;
    pthread_mutex_lock(&lock);
    if (next_random() % 1000 < writeback) {
        off_t from = offset / SECTOR * SECTOR, to = (offset + done + SECTOR - 1) / SECTOR * SECTOR;
        copy_range(fd, at.st_ino, from, to < at.st_size ? to : at.st_size, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return written(fd, bytes, count, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t offset) { return written(fd, bytes, count, offset); }

/* Its name goes; what the platter says of its inode must not become another file's. */
static void bury(const char *name) {
    char path[PATH_MAX], grave[PATH_MAX];
    struct stat at;
    if (!mine || !realpath(name, path) || strncmp(path, root, root_length) || stat(path, &at) || !S_ISREG(at.st_mode))
        return;
    name_of(grave, 'g', at.st_ino);
    if (link(path, grave))
        die("keeping an unlinked file");
}

int unlink(const char *name) {
    bury(name);
    return real_unlink(name);
}

int unlinkat(int directory, const char *name, int flags) {
    if (directory == AT_FDCWD && !(flags & AT_REMOVEDIR))
        bury(name);
    return real_unlinkat(directory, name, flags);
}

int rename(const char *old, const char *new) {
    bury(new);
    return real_rename(old, new);
}

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) static void plug_in(void) {
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = (int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat");
    real_rename = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    snprintf(root, sizeof root, "%s", setting("POWERCUT_ROOT"));
    snprintf(platter, sizeof platter, "%s", setting("POWERCUT_PLATTER"));
    root_length = strlen(root);
    writeback = strtoull(setting("POWERCUT_WRITEBACK"), NULL, 10);
    seed = strtoull(setting("POWERCUT_SEED"), NULL, 10);
    lies = *setting("POWERCUT_LIES") != 0;
    int file = open(setting("POWERCUT_CONTROL"), O_RDWR | O_CLOEXEC);
    void *words = mmap(NULL, MACHINES * WORDS * 4, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned long machine = strtoul(setting("POWERCUT_MACHINE"), NULL, 10);
    if (!root_length || words == MAP_FAILED || machine >= MACHINES)
        die("plugging in");
    close(file);
    control = words;
    mine = control + machine * WORDS;
    sigset_t all, before;
    pthread_t watcher;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&watcher, NULL, watch_supply, NULL))
        die("watching the supply");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
