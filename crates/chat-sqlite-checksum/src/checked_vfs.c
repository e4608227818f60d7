/*
** A VFS for SQLite that finds flipped bits: see lib.rs for what it promises.
**
** It wraps the default VFS and looks at two kinds of files:
**
**   main database   Only whole pages of PAGE bytes are written, with a checksum over the page's number and content in the last 8
**                   bytes; whole pages are verified when they are read, and reads of parts (the header) are cut out of a verified page.
**   write-ahead log Written as SQLite gives it. A page that is read from it is verified by SQLite's own frame checksum
**                   (https://sqlite.org/fileformat2.html#walformat), which SQLite itself verifies only when it recovers a log.
**
** SQLite's ext/misc/cksumvfs.c writes its checksum into log frames after SQLite has computed theirs, so a recovery would drop them;
** and it stops verifying when byte 20 of the header is not 8, which a flipped bit brings about. Hence this one.
**
** Pages in the log have no valid checksum of ours: it is computed when a checkpoint writes them to the database.
** There is no memory mapping: it would go past xRead.
**
** Pages of the database that are read one after the other in either direction are fetched several at a time, as the rows of a conversation and of
** a mailbox are. What was fetched is used within the lock that it was read under, which in WAL mode is a transaction: a checkpoint writes only pages that are
** in the log up to where every reader began (https://sqlite.org/wal.html#concurrency), and these a reader takes from the log; so whatever else lies beside
** them here, torn or old, is not asked for. All other changes of the file come through here, or after a lock.
**
** A power cut within a checkpoint leaves pages torn that the log has whole; SQLite reads those from the log, and the next checkpoint writes them
** again. Only the header it reads from the database before it knows of the log: if its page is torn, it is taken from the log here.
*/
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sqlite3.h"

#define PAGE 4096
#define RESERVED 8
#define RESERVED_AT 20 /* in the header: how many bytes are reserved in each page */
#define LOG_HEADER 32
#define LOG_MAGIC 0x377f0682 /* the lowest bit is the byte order of the checksums */
#define FRAME_HEADER 24
#define FRAME (FRAME_HEADER + PAGE)
#define NOWHERE INT64_MAX
#define NEAR 8 /* a page so close to the one that was read before is the next of many, and so many are fetched */
#define PORTION 128 /* so many pages are written at most before they are synced */
#define TORN_READS 5 /* how often a read without a lock may meet a write that is under way */

typedef struct CheckedFile {
  sqlite3_file base;
  const char *database; /* the name of the main database; the same for its log */
  int is_log;
  /* Database: pages that were fetched and may be wanted next, as they are in the file, not verified yet. */
  unsigned char *fetched;       /* room for NEAR of them, once it was needed */
  sqlite3_int64 fetched_from;
  int fetched_bytes;
  sqlite3_int64 read_before;    /* where the page is that was read last */
  int unsynced;                 /* so many pages were written since the last sync */
  sqlite3_int64 header_at;      /* log: where the last frame header was written */
  sqlite3_int64 rewritten_from; /* log: frames from here on were overwritten, and SQLite has yet to renew their checksums */
} CheckedFile;

#define INNER(file) ((sqlite3_file *)((CheckedFile *)(file) + 1))
#define INNER_VFS(vfs) ((sqlite3_vfs *)(vfs)->pAppData)

/* ---- checksums ---- */

static uint64_t load64(const unsigned char *at) {
  uint64_t word;
  memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

/* Each step is a bijection of its lane's state, and so is what follows: a change within one word always shows. Four lanes, because a
** processor does them at the same time. */
static uint64_t mixed(uint64_t state, uint64_t word) {
  state = (state ^ word) * UINT64_C(0x9E3779B97F4A7C15);
  return state ^ state >> 29;
}

/* Over the page's number and all its bytes but the reserved ones. Any content has one that is not 0 with all but certainty, so a page of
** zeros does not verify.
**
** The lanes are variables of their own, not an array: compilers make vectors of an array, and multiply 64 bits in those by three
** multiplications of 32, which takes twice as long. */
static uint64_t page_checksum(const unsigned char *page, uint64_t number) {
  uint64_t a = number, b = ~number, c = number + UINT64_C(0x243F6A8885A308D3), d = number ^ UINT64_C(0x13198A2E03707344);
  int at = 0;
  for (; at + 32 <= PAGE - RESERVED; at += 32) {
    a = mixed(a, load64(page + at));
    b = mixed(b, load64(page + at + 8));
    c = mixed(c, load64(page + at + 16));
    d = mixed(d, load64(page + at + 24));
  }
  a = mixed(a, load64(page + at));
  b = mixed(b, load64(page + at + 8));
  c = mixed(c, load64(page + at + 16));
  return mixed(mixed(mixed(mixed(mixed(PAGE, a), b), c), d), PAGE);
}

_Static_assert((PAGE - RESERVED) % 32 == 24, "three words are left for the first three lanes");

static int page_verifies(const unsigned char *page, sqlite3_int64 offset) {
  return page_checksum(page, (uint64_t)(offset / PAGE + 1)) == load64(page + PAGE - RESERVED);
}

static uint32_t big32(const unsigned char *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t little32(const unsigned char *at) {
  return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

/* SQLite's checksum of log frames, from the file format's description. */
static void log_checksum(int big, const unsigned char *bytes, int count, uint32_t sum[2]) {
  for (int at = 0; at < count; at += 8) {
    sum[0] += (big ? big32(bytes + at) : little32(bytes + at)) + sum[1];
    sum[1] += (big ? big32(bytes + at + 4) : little32(bytes + at + 4)) + sum[0];
  }
}

/* ---- damage ---- */

/* Notes it beside the database, durably: the process that meets it ends, and its successor must know even if it does not happen to read
** the same page. */
static int damaged(CheckedFile *file, sqlite3_int64 offset, const char *what) {
  char name[PATH_MAX], line[160], *slash;
  snprintf(line, sizeof line, "%s at byte %lld: %s\n", file->is_log ? "the write-ahead log" : "the database", (long long)offset, what);
  sqlite3_log(SQLITE_IOERR_DATA, "%s: %s", file->database, line);
  int length = snprintf(name, sizeof name, "%s-damage", file->database);
  if (length < 0 || length >= (int)sizeof name) return SQLITE_IOERR_DATA;
  int note = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (note >= 0) {
    if (write(note, line, strlen(line)) > 0) fsync(note);
    close(note);
  }
  if ((slash = strrchr(name, '/')) != 0) {
    *slash = 0;
    int directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0) {
      fsync(directory);
      close(directory);
    }
  }
  return SQLITE_IOERR_DATA;
}

/* ---- the main database ---- */

static const char *const missing = "the page is missing";
static const char *const mismatch = "the page does not have the checksum that it was written with";

/* Whatever changes the file, or lets somebody else do so, ends what was fetched. */
static CheckedFile *forget_fetched(sqlite3_file *file) {
  CheckedFile *checked = (CheckedFile *)file;
  checked->fetched_bytes = 0;
  return checked;
}

/* A page from those that were fetched; if it is none of them but close to the one before, more are fetched, in the direction of the two. 0: it is
** to be read by itself, as it is where anything fails, so that there is one place that says what. */
static int read_fetched(CheckedFile *file, unsigned char *page, sqlite3_int64 offset) {
  sqlite3_file *inner = INNER(file);
  sqlite3_int64 steps = (offset - file->read_before) / PAGE, from = offset;
  file->read_before = offset;
  if (offset < file->fetched_from || offset >= file->fetched_from + file->fetched_bytes) {
    if (steps == 0 || steps < -NEAR || steps > NEAR) return 0;
    if (file->fetched == 0) file->fetched = malloc(NEAR * PAGE);
    if (file->fetched == 0) return 0;
    if (steps < 0) from = offset > (NEAR - 1) * PAGE ? offset - (NEAR - 1) * PAGE : 0;
    sqlite3_int64 bytes = steps < 0 ? offset - from + PAGE : NEAR * PAGE, size;
    file->fetched_bytes = 0;
    int rc = inner->pMethods->xRead(inner, file->fetched, (int)bytes, from);
    if (rc == SQLITE_IOERR_SHORT_READ && inner->pMethods->xFileSize(inner, &size) == SQLITE_OK && size - from < bytes) {
      /* The file ends there. */
      bytes = size - from - (size - from) % PAGE;
      rc = offset + PAGE <= from + bytes ? SQLITE_OK : rc;
    }
    if (rc != SQLITE_OK) return 0;
    file->fetched_from = from;
    file->fetched_bytes = (int)bytes;
  }
  memcpy(page, file->fetched + (offset - file->fetched_from), PAGE);
  return 1;
}

/* SQLITE_IOERR_DATA for one that is cut off. */
static int read_page(CheckedFile *file, unsigned char *page, sqlite3_int64 offset) {
  sqlite3_file *inner = INNER(file);
  sqlite3_int64 size;
  int rc = inner->pMethods->xRead(inner, page, PAGE, offset);
  if (rc != SQLITE_IOERR_SHORT_READ) return rc;
  int sized = inner->pMethods->xFileSize(inner, &size);
  /* A new file is empty, and SQLite takes that for a database without pages. */
  if (sized != SQLITE_OK) return sized;
  return size == 0 ? rc : SQLITE_IOERR_DATA;
}

/* The first page as the log has it, committed: as SQLite finds it when it recovers the log. 0 if there is none. */
static int first_page_in_log(const CheckedFile *file, unsigned char *page) {
  char name[PATH_MAX];
  unsigned char log[LOG_HEADER], pending[PAGE], *frame = malloc(FRAME);
  int length = snprintf(name, sizeof name, "%s-wal", file->database), found = 0, is_pending = 0;
  int in = frame != 0 && length > 0 && length < (int)sizeof name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (in >= 0 && pread(in, log, LOG_HEADER, 0) == LOG_HEADER && (big32(log) & ~1u) == LOG_MAGIC && big32(log + 8) == PAGE) {
    uint32_t sum[2] = {0, 0};
    int big = log[3] & 1;
    off_t at = LOG_HEADER;
    log_checksum(big, log, 24, sum);
    int sound = sum[0] == big32(log + 24) && sum[1] == big32(log + 28);
    for (; sound && pread(in, frame, FRAME, at) == FRAME && memcmp(frame + 8, log + 16, 8) == 0; at += FRAME) {
      log_checksum(big, frame, 8, sum);
      log_checksum(big, frame + FRAME_HEADER, PAGE, sum);
      if (sum[0] != big32(frame + 16) || sum[1] != big32(frame + 20)) break;
      if (big32(frame) == 1) {
        memcpy(pending, frame + FRAME_HEADER, PAGE);
        is_pending = 1;
      }
      if (big32(frame + 4) != 0 && is_pending) {
        memcpy(page, pending, PAGE);
        found = 1;
        is_pending = 0;
      }
    }
  }
  if (in >= 0) close(in);
  free(frame);
  return found;
}

/* A part of the first page is wanted, which does not verify, or cannot be read: `rc`, as `what` says. */
static int read_header(CheckedFile *file, unsigned char *out, int amount, sqlite3_int64 offset, int rc, const char *what) {
  unsigned char page[PAGE];
  if (!first_page_in_log(file, page)) return what != 0 ? damaged(file, 0, what) : rc;
  if (page[RESERVED_AT] != RESERVED) return damaged(file, 0, "the header in the log reserves no room for checksums");
  memcpy(out, page + offset, (size_t)amount);
  return SQLITE_OK;
}

static int read_database(CheckedFile *file, unsigned char *out, int amount, sqlite3_int64 offset) {
  unsigned char whole[PAGE];
  sqlite3_int64 start = offset - offset % PAGE;
  int is_page = amount == PAGE && start == offset;
  if (!is_page && offset + amount > start + PAGE) return SQLITE_IOERR_READ;
  unsigned char *page = is_page ? out : whole;
  int is_header = !is_page && start == 0;
  for (int attempt = 0;; attempt++) {
    int rc = is_page && read_fetched(file, page, start) ? SQLITE_OK : read_page(file, page, start);
    const char *what = rc == SQLITE_IOERR_DATA ? missing : 0;
    if (rc == SQLITE_IOERR_SHORT_READ && !is_page) memset(out, 0, (size_t)amount);
    if (is_header && rc != SQLITE_OK && rc != SQLITE_IOERR_SHORT_READ) return read_header(file, out, amount, offset, rc, what);
    if (rc != SQLITE_OK) return what != 0 ? damaged(file, start, what) : rc;
    if (page_verifies(page, start)) break;
    /* Whole pages are read under SQLite's locks. The header is not: a checkpoint may be writing it. */
    if (is_page) return damaged(file, start, mismatch);
    if (attempt == TORN_READS) return is_header ? read_header(file, out, amount, offset, rc, mismatch) : damaged(file, start, mismatch);
    sqlite3_sleep(1);
  }
  if (start == 0 && page[RESERVED_AT] != RESERVED) return damaged(file, start, "the header reserves no room for checksums");
  if (!is_page) memcpy(out, page + (offset - start), (size_t)amount);
  return SQLITE_OK;
}

static int checked_sync(sqlite3_file *file, int flags) {
  ((CheckedFile *)file)->unsynced = 0;
  return INNER(file)->pMethods->xSync(INNER(file), flags);
}

/* A checkpoint writes thousands of pages that lie far apart. Synced at once at its end, they would all be in the disk's queue at the same time, and
** whoever syncs another file meanwhile would wait for them. */
static int write_database(CheckedFile *file, const unsigned char *bytes, int amount, sqlite3_int64 offset) {
  unsigned char page[PAGE];
  sqlite3_file *inner = INNER(file);
  int whole = amount == PAGE && offset % PAGE == 0;
  /* Otherwise the checksum would lie where content is. */
  if (!whole || (offset == 0 && bytes[RESERVED_AT] != RESERVED)) return SQLITE_IOERR_WRITE;
  memcpy(page, bytes, PAGE - RESERVED);
  uint64_t sum = page_checksum(page, (uint64_t)(offset / PAGE + 1));
  for (int i = 0; i < RESERVED; i++) page[PAGE - RESERVED + i] = (unsigned char)(sum >> 8 * i);
  int rc = inner->pMethods->xWrite(inner, page, PAGE, offset);
  if (rc != SQLITE_OK || ++file->unsynced < PORTION) return rc;
  return checked_sync((sqlite3_file *)file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY);
}

/* ---- the write-ahead log ---- */

/* The page at `offset` was read: compares it with the checksum of its frame, which goes on from the one of the frame before. */
static int verify_frame(CheckedFile *file, const unsigned char *page, sqlite3_int64 offset) {
  unsigned char log[LOG_HEADER], frame[FRAME_HEADER], before[8];
  sqlite3_file *inner = INNER(file);
  sqlite3_int64 start = offset - FRAME_HEADER;
  int rc = inner->pMethods->xRead(inner, log, LOG_HEADER, 0);
  if (rc == SQLITE_OK) rc = inner->pMethods->xRead(inner, frame, FRAME_HEADER, start);
  if (rc == SQLITE_OK && start > LOG_HEADER) rc = inner->pMethods->xRead(inner, before, 8, start - FRAME + 16);
  if (rc != SQLITE_OK) return rc;
  const unsigned char *seed = start > LOG_HEADER ? before : log + 24;
  uint32_t sum[2] = {big32(seed), big32(seed + 4)};
  int big = log[3] & 1;
  log_checksum(big, frame, 8, sum);
  log_checksum(big, page, PAGE, sum);
  if (memcmp(frame + 8, log + 16, 8) != 0 || sum[0] != big32(frame + 16) || sum[1] != big32(frame + 20))
    return damaged(file, offset, "the page does not have the checksum of its frame");
  return SQLITE_OK;
}

static int read_log(CheckedFile *file, void *out, int amount, sqlite3_int64 offset) {
  sqlite3_file *inner = INNER(file);
  int rc = inner->pMethods->xRead(inner, out, amount, offset);
  if (rc != SQLITE_OK || amount != PAGE || (offset - LOG_HEADER) % FRAME != FRAME_HEADER) return rc;
  return offset >= file->rewritten_from ? SQLITE_OK : verify_frame(file, out, offset);
}

/* A transaction that outgrows the cache overwrites its own frames; until it commits, their checksums and all after them are open. Then
** SQLite writes their headers anew, one after the other. */
static int write_log(CheckedFile *file, const void *bytes, int amount, sqlite3_int64 offset) {
  sqlite3_file *inner = INNER(file);
  if (offset == 0) file->rewritten_from = file->header_at = NOWHERE;
  if (amount == FRAME_HEADER) {
    file->header_at = offset;
    if (offset == file->rewritten_from) file->rewritten_from += FRAME;
  } else if (amount == PAGE && file->header_at != offset - FRAME_HEADER && offset - FRAME_HEADER < file->rewritten_from) {
    file->rewritten_from = offset - FRAME_HEADER;
  }
  if (amount != FRAME_HEADER) file->header_at = NOWHERE;
  return inner->pMethods->xWrite(inner, bytes, amount, offset);
}

/* ---- the methods of files ---- */

static int checked_read(sqlite3_file *file, void *out, int amount, sqlite3_int64 offset) {
  CheckedFile *checked = (CheckedFile *)file;
  return checked->is_log ? read_log(checked, out, amount, offset) : read_database(checked, out, amount, offset);
}

static int checked_write(sqlite3_file *file, const void *bytes, int amount, sqlite3_int64 offset) {
  CheckedFile *checked = forget_fetched(file);
  return checked->is_log ? write_log(checked, bytes, amount, offset) : write_database(checked, bytes, amount, offset);
}

static int checked_close(sqlite3_file *file) {
  free(forget_fetched(file)->fetched);
  return INNER(file)->pMethods->xClose(INNER(file));
}
static int checked_truncate(sqlite3_file *file, sqlite3_int64 size) {
  forget_fetched(file);
  return INNER(file)->pMethods->xTruncate(INNER(file), size);
}
static int checked_size(sqlite3_file *file, sqlite3_int64 *size) { return INNER(file)->pMethods->xFileSize(INNER(file), size); }
static int checked_lock(sqlite3_file *file, int lock) {
  forget_fetched(file);
  return INNER(file)->pMethods->xLock(INNER(file), lock);
}
static int checked_unlock(sqlite3_file *file, int lock) {
  forget_fetched(file);
  return INNER(file)->pMethods->xUnlock(INNER(file), lock);
}
static int checked_reserved(sqlite3_file *file, int *out) { return INNER(file)->pMethods->xCheckReservedLock(INNER(file), out); }
static int checked_control(sqlite3_file *file, int op, void *arg) { return INNER(file)->pMethods->xFileControl(INNER(file), op, arg); }
static int checked_sector(sqlite3_file *file) { return INNER(file)->pMethods->xSectorSize(INNER(file)); }
static int checked_device(sqlite3_file *file) { return INNER(file)->pMethods->xDeviceCharacteristics(INNER(file)); }
static int checked_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **out) {
  return INNER(file)->pMethods->xShmMap(INNER(file), region, size, extend, out);
}
static int checked_shm_lock(sqlite3_file *file, int offset, int n, int flags) {
  forget_fetched(file);
  return INNER(file)->pMethods->xShmLock(INNER(file), offset, n, flags);
}
static void checked_shm_barrier(sqlite3_file *file) { INNER(file)->pMethods->xShmBarrier(INNER(file)); }
static int checked_shm_unmap(sqlite3_file *file, int remove) { return INNER(file)->pMethods->xShmUnmap(INNER(file), remove); }

/* Version 2: without xFetch, there is no memory mapping. */
static const sqlite3_io_methods checked_methods = {
    2,           checked_close,    checked_read,   checked_write,  checked_truncate, checked_sync,    checked_size,
    checked_lock, checked_unlock,   checked_reserved, checked_control, checked_sector,   checked_device,  checked_shm_map,
    checked_shm_lock, checked_shm_barrier, checked_shm_unmap, 0, 0};

/* ---- the VFS ---- */

static int checked_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
  sqlite3_vfs *inner = INNER_VFS(vfs);
  CheckedFile *checked = (CheckedFile *)file;
  if (name == 0 || (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL)) == 0) return inner->xOpen(inner, name, file, flags, out);
  memset(checked, 0, sizeof *checked);
  checked->is_log = (flags & SQLITE_OPEN_WAL) != 0;
  checked->database = checked->is_log ? sqlite3_filename_database(name) : name;
  checked->header_at = checked->rewritten_from = NOWHERE;
  int rc = inner->xOpen(inner, name, INNER(file), flags, out);
  /* SQLite closes what has methods. */
  file->pMethods = INNER(file)->pMethods != 0 ? &checked_methods : 0;
  return rc;
}

static sqlite3_vfs checked_vfs;

/* Makes room for the checksums in a database that is yet to be made. One that is there has it, or is refused when its header is read. */
static int reserve(sqlite3 *connection, char **error, const struct sqlite3_api_routines *api) {
  sqlite3_vfs *vfs = 0;
  int bytes = RESERVED;
  (void)error;
  (void)api;
  if (sqlite3_file_control(connection, "main", SQLITE_FCNTL_VFS_POINTER, &vfs) == SQLITE_OK && vfs == &checked_vfs)
    sqlite3_file_control(connection, "main", SQLITE_FCNTL_RESERVE_BYTES, &bytes);
  return SQLITE_OK;
}

/* Before main: nobody else uses SQLite yet. If it fails, no database can be opened by this name. */
__attribute__((constructor)) static void register_checked_vfs(void) {
  if (sqlite3_initialize() != SQLITE_OK) return;
  sqlite3_vfs *inner = sqlite3_vfs_find(0);
  if (inner == 0 || sqlite3_auto_extension((void (*)(void))reserve) != SQLITE_OK) return;
  /* The methods of the default VFS that are not about files are called with this one as their argument; those of unix do not look at it. */
  checked_vfs = *inner;
  checked_vfs.szOsFile = inner->szOsFile + (int)sizeof(CheckedFile);
  checked_vfs.pNext = 0;
  checked_vfs.zName = "chat-checked";
  checked_vfs.pAppData = inner;
  checked_vfs.xOpen = checked_open;
  sqlite3_vfs_register(&checked_vfs, 0);
}
