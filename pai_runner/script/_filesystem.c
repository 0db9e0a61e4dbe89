/* The compiled part of TensorFlow's file layer on fsspec.
 *
 * TensorFlow loads this library through tf.experimental.register_filesystem_plugin and calls
 * TF_InitPlugin. The structures below follow TensorFlow's C interface for file systems
 * (tensorflow/c/experimental/filesystem/filesystem_interface.h, versions 0); no header of
 * TensorFlow or Python is needed, and nothing is linked against either.
 *
 * Python does the work, through the functions in `calls`. This part keeps what Python cannot:
 *
 *  - Appends go to a local file with stdio, as TensorFlow's own local file system does, without
 *    the interpreter: a TFRecord is three small appends.
 *  - After pai_close() no call reaches Python, which may be gone while TensorFlow's threads and
 *    objects still live. Calls under way are waited for.
 *  - A file that is let go of without close() counts as written, as a local one is, unless an
 *    operation gives it up half way.
 */
#define _GNU_SOURCE /* fopencookie */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#define discard fpurge
#else
#include <stdio_ext.h>
#define discard __fpurge
#endif

#define CANCELLED 1
#define RESOURCE_EXHAUSTED 8
#define FAILED_PRECONDITION 9
#define UNAVAILABLE 14
#define WRITE_BUFFER (256 * 1024)
/* How long threads are kept from an interpreter that may end meanwhile. */
#define LINGER_SECONDS 5
/* How much is written before Python is told that a file has grown: a part of its upload. */
#define GROWTH (8 * 1024 * 1024)

typedef struct TF_Status TF_Status;

void pai_keep_threads(int (*is_finalizing)(void)); /* of _threads.c */

/* ====== TensorFlow's structures ====== */

/* TF_RandomAccessFile, TF_WritableFile and TF_Filesystem: one pointer of ours each. */
typedef struct {
  void *ours;
} Handle;

typedef struct {
  int64_t length;
  int64_t mtime_nsec;
  bool is_directory;
} Statistics;

typedef struct {
  void (*cleanup)(Handle *);
  int64_t (*read)(const Handle *, uint64_t, size_t, char *, TF_Status *);
} ReaderTable;

typedef struct {
  void (*cleanup)(Handle *);
  void (*append)(const Handle *, const char *, size_t, TF_Status *);
  int64_t (*tell)(const Handle *, TF_Status *);
  void (*flush)(const Handle *, TF_Status *);
  void (*sync)(const Handle *, TF_Status *);
  void (*close)(const Handle *, TF_Status *);
} WriterTable;

typedef struct {
  void (*cleanup)(Handle *);
  const void *(*data)(const Handle *);
  uint64_t (*length)(const Handle *);
} RegionTable;

typedef struct {
  void (*init)(Handle *, TF_Status *);
  void (*cleanup)(Handle *);
  void (*new_random_access_file)(const Handle *, const char *, Handle *, TF_Status *);
  void (*new_writable_file)(const Handle *, const char *, Handle *, TF_Status *);
  void (*new_appendable_file)(const Handle *, const char *, Handle *, TF_Status *);
  void (*new_read_only_memory_region_from_file)(const Handle *, const char *, Handle *,
                                                TF_Status *);
  void (*create_dir)(const Handle *, const char *, TF_Status *);
  void (*recursively_create_dir)(const Handle *, const char *, TF_Status *);
  void (*delete_file)(const Handle *, const char *, TF_Status *);
  void (*delete_dir)(const Handle *, const char *, TF_Status *);
  void (*delete_recursively)(const Handle *, const char *, uint64_t *, uint64_t *, TF_Status *);
  void (*rename_file)(const Handle *, const char *, const char *, TF_Status *);
  void (*copy_file)(const Handle *, const char *, const char *, TF_Status *);
  void (*path_exists)(const Handle *, const char *, TF_Status *);
  bool (*paths_exist)(const Handle *, char **, int, TF_Status **);
  void (*stat)(const Handle *, const char *, Statistics *, TF_Status *);
  bool (*is_directory)(const Handle *, const char *, TF_Status *);
  int64_t (*get_file_size)(const Handle *, const char *, TF_Status *);
  char *(*translate_name)(const Handle *, const char *);
  int (*get_children)(const Handle *, const char *, char ***, TF_Status *);
  int (*get_matching_paths)(const Handle *, const char *, char ***, TF_Status *);
  void (*flush_caches)(const Handle *);
  void *transactions_and_options[11];
} FilesystemTable;

typedef struct {
  char *scheme;
  int filesystem_abi, filesystem_api;
  size_t filesystem_size;
  FilesystemTable *filesystem;
  int reader_abi, reader_api;
  size_t reader_size;
  ReaderTable *reader;
  int writer_abi, writer_api;
  size_t writer_size;
  WriterTable *writer;
  int region_abi, region_api;
  size_t region_size;
  RegionTable *region;
} Plugin;

typedef struct {
  size_t count;
  Plugin *plugins;
  void *(*allocate)(size_t);
  void (*release)(void *);
} PluginInfo;

/* ====== What Python gives ====== */

/* A file in memory of which the byte `n` lies at `n % size`: what is written over what is for
 * Python to say. It belongs to Python, as long as a writer has it. */
typedef struct {
  _Atomic int64_t size;
  _Atomic int64_t written;
} Ring;

/* Each fails by setting the status. Python knows an open file by its number. */
typedef struct {
  void (*set_status)(TF_Status *, int code, const char *message); /* TensorFlow's TF_SetStatus */
  int (*holds_interpreter)(void);                                 /* PyGILState_Check */
  void *(*thread_state)(void);                                    /* PyGILState_GetThisThreadState */
  int (*is_finalizing)(void);                                     /* Py_IsFinalizing */

  int64_t (*open_reader)(const char *path, void *reader, TF_Status *); /* reader: for pai_offer */
  int64_t (*read)(int64_t number, uint64_t offset, size_t count, char *into,
                  TF_Status *); /* one more than the bytes that came */
  void (*close_reader)(int64_t number);
  char *(*read_whole)(const char *path, uint64_t *length, TF_Status *); /* to be freed */

  int64_t (*open_writer)(const char *path, int append, int *descriptor, Ring **ring, TF_Status *);
  void (*grow_writer)(int64_t number, TF_Status *);
  int64_t (*make_room)(int64_t number); /* up to where its ring may be written, or -1 */
  void (*sync_writer)(int64_t number, TF_Status *);
  void (*close_writer)(int64_t number, TF_Status *);
  void (*drop_writer)(int64_t number, int publish);
  void (*fail_writer)(int64_t number, int error, TF_Status *);

  void (*exists)(const char *path, TF_Status *);
  void (*stat)(const char *path, Statistics *, TF_Status *);
  void (*is_directory)(const char *path, TF_Status *);
  int (*list)(const char *path, char ***names, TF_Status *); /* names from pai_names */
  int (*match)(const char *pattern, char ***paths, TF_Status *);
  void (*make_directory)(const char *path, int recursive, TF_Status *);
  void (*remove_file)(const char *path, TF_Status *);
  void (*remove_directory)(const char *path, TF_Status *);
  void (*remove_tree)(const char *path, TF_Status *);
  void (*rename)(const char *source, const char *target, TF_Status *);
  void (*copy)(const char *source, const char *target, TF_Status *);
} Calls;

static Calls calls;
static char *schemes; /* names, each ended by \0, then an empty one */

/* ====== The door to Python ====== */

static atomic_bool closed;
static atomic_int calls_under_way;

static pthread_t closer;        /* who has closed the door: Python's main thread */
static _Atomic double kept_for; /* until when others are kept, in seconds of the monotonic clock */

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pause_shortly(void) {
  const struct timespec pause = {0, 5 * 1000 * 1000};
  nanosleep(&pause, NULL);
}

/* Keep a thread of Python's, which comes back while the interpreter ends, from coming back: all that
 * it could do is report that its files are closed. While exit handlers run, which may wait for the
 * thread, it is let go after a while. No lock may be held: exit(3) takes those of streams. */
static void linger(void) {
  if (!atomic_load(&closed) || pthread_equal(closer, pthread_self())) return;
  if (calls.thread_state() == NULL || calls.holds_interpreter()) return;
  while (seconds_now() < atomic_load(&kept_for) || calls.is_finalizing()) pause_shortly();
}

static void refuse(TF_Status *status) {
  calls.set_status(status, UNAVAILABLE, "the process is ending: its file systems are closed");
}

static bool enter(TF_Status *status) {
  atomic_fetch_add(&calls_under_way, 1);
  if (!atomic_load(&closed)) return true;
  atomic_fetch_sub(&calls_under_way, 1);
  linger();
  if (status != NULL) refuse(status);
  return false;
}

static void leave(void) {
  atomic_fetch_sub(&calls_under_way, 1);
  linger();
}

/* Let no further call reach Python; true when those under way ended within `seconds`. Called
 * without the interpreter's lock, which they need. */
int pai_close(double seconds) {
  const double now = seconds_now();
  closer = pthread_self();
  atomic_store(&kept_for, now + LINGER_SECONDS);
  atomic_store(&closed, true);
  while (atomic_load(&calls_under_way) > 0) {
    if (seconds_now() - now >= seconds) return 0;
    pause_shortly();
  }
  return 1;
}

/* Return what Python answered, but -1 for 0: then an exception, such as that of a signal handler,
 * came before the function could catch it, and no status is set. */
static int64_t answered(int64_t answer, TF_Status *status) {
  if (answer != 0) return answer;
  calls.set_status(status, CANCELLED, "the call was interrupted");
  return -1;
}

/* ====== Writers ====== */

typedef struct Writer {
  FILE *file;
  int64_t number;
  unsigned process; /* which process of a fork opened it */
  size_t untold;    /* bytes that were appended since Python was told */
  Ring *ring;       /* NULL: the file is on the disk */
  int descriptor;   /* of the ring's memory */
  int64_t room;     /* up to where the ring may be written */
  char *buffer;     /* the stream's: setvbuf of glibc makes none of a given size */
  struct Writer *next, **link;
} Writer;

/* TensorFlow lets go of a file that it has written without closing it (tf.data's lock files, a
 * GFile of Python's), and of one that it copies when it cannot read on. Only in the second case
 * was the last thing that this thread did a read that failed, and Python's lock not held. */
static _Thread_local bool read_failed;

/* Where a thread of Python's reads the numbers of writers whose files have grown, or -1: to wait
 * for the interpreter's lock at each part would hold TensorFlow up while parts are sent. */
static atomic_int growth_pipe = -1;

static Writer *open_writers;
static pthread_mutex_t writers_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint process; /* how many forks lie between this process and the first */

static void after_fork_in_child(void) {
  atomic_fetch_add(&process, 1);
  /* The parent writes what it holds; exit(3) in the child would write it once more. */
  for (Writer *writer = open_writers; writer != NULL; writer = writer->next) {
    if (writer->file != NULL) discard(writer->file);
    if (writer->ring == NULL) continue;
    close(writer->descriptor); /* else the memory would live as long as the child */
    writer->descriptor = -1;
  }
  atomic_store(&calls_under_way, 0);
  atomic_store(&growth_pipe, -1); /* the thread that reads it is the parent's */
  pthread_mutex_init(&writers_lock, NULL);
  open_writers = NULL;
}

static void remember(Writer *writer) {
  pthread_mutex_lock(&writers_lock);
  writer->next = open_writers;
  writer->link = &open_writers;
  if (writer->next != NULL) writer->next->link = &writer->next;
  open_writers = writer;
  pthread_mutex_unlock(&writers_lock);
}

static void forget(Writer *writer) {
  pthread_mutex_lock(&writers_lock);
  *writer->link = writer->next;
  if (writer->next != NULL) writer->next->link = writer->link;
  pthread_mutex_unlock(&writers_lock);
}

/* Write out what every open writer holds in memory, but those of rings: they may wait for a store,
 * and are not whole before they are closed. */
void pai_flush_writers(void) {
  pthread_mutex_lock(&writers_lock);
  for (Writer *writer = open_writers; writer != NULL; writer = writer->next)
    if (writer->file != NULL && writer->ring == NULL) fflush(writer->file);
  pthread_mutex_unlock(&writers_lock);
}

static bool is_inherited(const Writer *writer) { return writer->process != atomic_load(&process); }

static void fail(const Writer *writer, int error, TF_Status *status) {
  if (!enter(status)) return;
  calls.fail_writer(writer->number, error, status);
  leave();
}

static void drop(int64_t number, int publish) {
  if (!enter(NULL)) return;
  calls.drop_writer(number, publish);
  leave();
}

static bool is_open(const Writer *writer, TF_Status *status) {
  if (writer->file != NULL) return true;
  calls.set_status(status, FAILED_PRECONDITION, "the file is closed");
  return false;
}

/* Ask Python for room in a ring; false, with errno, where there will be none. The stream's lock is
 * held: who comes back lingers when stdio has returned. */
static bool make_room(Writer *writer) {
  atomic_fetch_add(&calls_under_way, 1);
  const int64_t room = atomic_load(&closed) ? -1 : calls.make_room(writer->number);
  atomic_fetch_sub(&calls_under_way, 1);
  errno = ECANCELED;
  if (room <= writer->room) return false;
  writer->room = room;
  return true;
}

/* These two are a stream's, see fopencookie(3). */
static ssize_t write_ring(void *cookie, const char *bytes, size_t count) {
  Writer *writer = cookie;
  size_t done = 0;
  if (is_inherited(writer)) errno = EBUSY; /* the parent's, as is the memory */
  while (done < count && !is_inherited(writer)) {
    const int64_t at = atomic_load(&writer->ring->written);
    if (at >= writer->room && !make_room(writer)) break;
    const int64_t size = atomic_load(&writer->ring->size);
    size_t most = count - done;
    if (writer->room - at < (int64_t)most) most = writer->room - at;
    if (size - at % size < (int64_t)most) most = size - at % size;
    const ssize_t wrote = pwrite(writer->descriptor, bytes + done, most, at % size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) break;
    atomic_store(&writer->ring->written, at + wrote);
    done += wrote;
  }
  return done;
}

static int close_ring(void *cookie) {
  const int descriptor = ((Writer *)cookie)->descriptor;
  return descriptor < 0 ? 0 : close(descriptor);
}

/* Return a stream that appends to the writer's file, or NULL. */
static FILE *new_stream(Writer *writer) {
#ifdef __linux__
  const cookie_io_functions_t functions = {.write = write_ring, .close = close_ring};
  if (writer->ring != NULL) return fopencookie(writer, "wb", functions);
#endif
  return fdopen(writer->descriptor, "ab");
}

static void open_writer(const char *path, int append, Handle *handle, TF_Status *status) {
  int descriptor = -1;
  Ring *ring = NULL;
  if (!enter(status)) return;
  const int64_t number =
      answered(calls.open_writer(path, append, &descriptor, &ring, status), status);
  leave();
  if (number < 0) { /* the status says why */
    if (descriptor >= 0) close(descriptor);
    return;
  }
  Writer *writer = calloc(1, sizeof *writer);
  if (writer != NULL) {
    writer->number = number;
    writer->process = atomic_load(&process);
    writer->ring = ring;
    writer->descriptor = descriptor;
    writer->room = ring != NULL ? atomic_load(&ring->size) : 0;
    writer->file = new_stream(writer);
  }
  if (writer == NULL || writer->file == NULL) {
    calls.set_status(status, RESOURCE_EXHAUSTED, "no memory for a writer");
    close(descriptor);
    free(writer);
    drop(number, 0);
    return;
  }
  writer->buffer = malloc(WRITE_BUFFER);
  if (writer->buffer != NULL) setvbuf(writer->file, writer->buffer, _IOFBF, WRITE_BUFFER);
  if (ring == NULL) fseeko(writer->file, 0, SEEK_END); /* for tell, as fopen(path, "a") does */
  remember(writer);
  handle->ours = writer;
}

static void new_writable(const Handle *fs, const char *path, Handle *handle, TF_Status *status) {
  open_writer(path, 0, handle, status);
}

static void new_appendable(const Handle *fs, const char *path, Handle *handle, TF_Status *status) {
  open_writer(path, 1, handle, status);
}

void pai_tell_growth_to(int descriptor) { atomic_store(&growth_pipe, descriptor); }

/* Let Python send what has reached the file. */
static void tell_growth(Writer *writer, TF_Status *status) {
  const int pipe = atomic_load(&growth_pipe);
  writer->untold = 0;
  if (fflush(writer->file) != 0) {
    fail(writer, errno, status);
  } else if (pipe >= 0) {
    /* When the pipe is full, the next number tells of this growth, too. */
    const ssize_t told = write(pipe, &writer->number, sizeof writer->number);
    (void)told;
  } else if (enter(status)) {
    calls.grow_writer(writer->number, status);
    leave();
  }
}

/* Tell whether a writer's ring is its parent's, and set the status then. */
static bool is_parents(const Writer *writer, TF_Status *status) {
  if (writer->ring == NULL || !is_inherited(writer)) return false;
  calls.set_status(status, FAILED_PRECONDITION, "the file is the parent process's");
  return true;
}

static void writer_append(const Handle *handle, const char *bytes, size_t count,
                          TF_Status *status) {
  Writer *writer = handle->ours;
  read_failed = false;
  if (!is_open(writer, status) || is_parents(writer, status)) return;
  if (atomic_load(&closed)) {
    refuse(status);
  } else if (fwrite(bytes, 1, count, writer->file) != count) {
    fail(writer, errno, status);
  } else {
    writer->untold += count;
    if (writer->untold >= GROWTH && !is_inherited(writer)) tell_growth(writer, status);
  }
  linger();
}

static int64_t writer_tell(const Handle *handle, TF_Status *status) {
  Writer *writer = handle->ours;
  if (!is_open(writer, status) || is_parents(writer, status)) return -1;
  if (writer->ring == NULL) return (int64_t)ftello(writer->file);
  /* Else nobody knows what the stream holds. */
  const bool is_flushed = fflush(writer->file) == 0;
  if (!is_flushed) fail(writer, errno, status);
  linger();
  return is_flushed ? atomic_load(&writer->ring->written) : -1;
}

/* TensorFlow flushes checkpoint files once more after closing them. */
static void writer_flush(const Handle *handle, TF_Status *status) {
  Writer *writer = handle->ours;
  if (writer->file != NULL && fflush(writer->file) != 0) fail(writer, errno, status);
  linger();
}

static void writer_sync(const Handle *handle, TF_Status *status) {
  Writer *writer = handle->ours;
  if (writer->file == NULL || is_inherited(writer)) return;
  if (fflush(writer->file) != 0) {
    fail(writer, errno, status);
  } else if (enter(status)) {
    calls.sync_writer(writer->number, status);
    leave();
  }
}

/* Write out and close a writer's stream; false, with errno, where that failed. */
static bool end_stream(Writer *writer, FILE *file) {
  forget(writer);
  const bool is_whole = fclose(file) == 0;
  const int error = errno;
  free(writer->buffer); /* of an inherited writer it stays: exit(3) still looks into the stream */
  errno = error;
  return is_whole;
}

static void writer_close(const Handle *handle, TF_Status *status) {
  Writer *writer = handle->ours;
  if (!is_open(writer, status)) return;
  FILE *file = writer->file;
  writer->file = NULL;
  if (is_inherited(writer)) return; /* the parent writes what it holds */
  if (!end_stream(writer, file)) {
    fail(writer, errno, status);
    drop(writer->number, 0);
  } else if (enter(status)) {
    calls.close_writer(writer->number, status);
    leave();
  }
}

static void writer_cleanup(Handle *handle) {
  Writer *writer = handle->ours;
  if (writer->file != NULL && !is_inherited(writer)) {
    const bool is_whole = end_stream(writer, writer->file);
    drop(writer->number, is_whole && (!read_failed || calls.holds_interpreter()));
  }
  free(writer);
}

/* ====== Readers ====== */

/* `bytes` are those of the file from `start` to `end`, which Python holds: reads within them need
 * no Python. It takes them back, with pai_offer, before they go. */
typedef struct {
  int64_t number;
  unsigned process;
  pthread_mutex_t lock;
  const char *bytes;
  uint64_t start, end;
} Reader;

/* Take the reader's lock; after a fork a new one, as a thread of the parent may have had it. */
static void lock(Reader *reader) {
  if (reader->process != atomic_load(&process)) {
    pthread_mutex_init(&reader->lock, NULL);
    reader->process = atomic_load(&process);
  }
  pthread_mutex_lock(&reader->lock);
}

/* Let a reader serve what lies within `size` bytes of the file from `start` by itself. */
void pai_offer(Reader *reader, const char *bytes, uint64_t start, uint64_t size) {
  lock(reader);
  reader->bytes = bytes;
  reader->start = start;
  reader->end = start + size;
  pthread_mutex_unlock(&reader->lock);
}

static bool serve(Reader *reader, uint64_t offset, size_t count, char *into) {
  lock(reader);
  const bool is_here = offset >= reader->start && offset + count <= reader->end;
  if (is_here) memcpy(into, reader->bytes + (offset - reader->start), count);
  pthread_mutex_unlock(&reader->lock);
  return is_here;
}

static void new_reader(const Handle *fs, const char *path, Handle *handle, TF_Status *status) {
  Reader *reader = calloc(1, sizeof *reader);
  if (reader == NULL) {
    calls.set_status(status, RESOURCE_EXHAUSTED, "no memory for a reader");
    return;
  }
  reader->process = atomic_load(&process);
  pthread_mutex_init(&reader->lock, NULL);
  reader->number = -1;
  if (enter(status)) {
    reader->number = answered(calls.open_reader(path, reader, status), status);
    leave();
  }
  if (reader->number < 0)
    free(reader); /* the status says why */
  else
    handle->ours = reader;
}

static int64_t reader_read(const Handle *handle, uint64_t offset, size_t count, char *into,
                           TF_Status *status) {
  Reader *reader = handle->ours;
  if (!enter(status)) return -1;
  int64_t got = (int64_t)count;
  if (!serve(reader, offset, count, into)) {
    got = answered(calls.read(reader->number, offset, count, into, status), status);
    if (got > 0) got--;
  }
  leave();
  read_failed = got < 0;
  return got;
}

static void reader_cleanup(Handle *handle) {
  Reader *reader = handle->ours;
  if (enter(NULL)) {
    calls.close_reader(reader->number);
    leave();
  }
  free(reader);
}

/* ====== Whole files in memory ====== */

typedef struct {
  char *bytes;
  uint64_t length;
} Region;

static void new_region(const Handle *fs, const char *path, Handle *handle, TF_Status *status) {
  Region *region = calloc(1, sizeof *region);
  if (region == NULL) {
    calls.set_status(status, RESOURCE_EXHAUSTED, "no memory for a file");
    return;
  }
  if (enter(status)) {
    region->bytes = calls.read_whole(path, &region->length, status);
    leave();
  }
  if (region->bytes == NULL) { /* the status says why */
    free(region);
    return;
  }
  handle->ours = region;
}

static void region_cleanup(Handle *handle) {
  Region *region = handle->ours;
  free(region->bytes);
  free(region);
}

static const void *region_data(const Handle *handle) { return ((Region *)handle->ours)->bytes; }

static uint64_t region_length(const Handle *handle) { return ((Region *)handle->ours)->length; }

/* ====== The file system ====== */

static void init(Handle *fs, TF_Status *status) { fs->ours = NULL; }

static void cleanup(Handle *fs) {}

/* Keep names as they are: TensorFlow's default would drop the bucket. */
static char *translate_name(const Handle *fs, const char *path) { return strdup(path); }

#define PATH_CALL(name)                                                          \
  static void fs_##name(const Handle *fs, const char *path, TF_Status *status) { \
    if (!enter(status)) return;                                                  \
    calls.name(path, status);                                                    \
    leave();                                                                     \
  }
PATH_CALL(exists)
PATH_CALL(remove_file)
PATH_CALL(remove_directory)

#define TWO_PATHS_CALL(name)                                                       \
  static void fs_##name(const Handle *fs, const char *source, const char *target, \
                        TF_Status *status) {                                       \
    if (!enter(status)) return;                                                    \
    calls.name(source, target, status);                                            \
    leave();                                                                       \
  }
TWO_PATHS_CALL(rename)
TWO_PATHS_CALL(copy)

#define NAMES_CALL(name)                                                                     \
  static int fs_##name(const Handle *fs, const char *path, char ***names, TF_Status *status) { \
    if (!enter(status)) return -1;                                                           \
    const int count = calls.name(path, names, status);                                       \
    leave();                                                                                 \
    return count;                                                                            \
  }
NAMES_CALL(list)
NAMES_CALL(match)

static void fs_stat(const Handle *fs, const char *path, Statistics *found, TF_Status *status) {
  if (!enter(status)) return;
  calls.stat(path, found, status);
  leave();
}

static int64_t fs_size(const Handle *fs, const char *path, TF_Status *status) {
  Statistics found = {-1, 0, false};
  fs_stat(fs, path, &found, status);
  return found.length;
}

static bool fs_is_directory(const Handle *fs, const char *path, TF_Status *status) {
  if (!enter(status)) return false;
  calls.is_directory(path, status);
  leave();
  return true; /* TensorFlow looks at the status alone */
}

static void make_directory(const char *path, int recursive, TF_Status *status) {
  if (!enter(status)) return;
  calls.make_directory(path, recursive, status);
  leave();
}

static void fs_create_dir(const Handle *fs, const char *path, TF_Status *status) {
  make_directory(path, 0, status);
}

static void fs_create_dirs(const Handle *fs, const char *path, TF_Status *status) {
  make_directory(path, 1, status);
}

static void fs_remove_tree(const Handle *fs, const char *path, uint64_t *files_left,
                           uint64_t *directories_left, TF_Status *status) {
  *files_left = *directories_left = 0; /* what is left is in the status */
  if (!enter(status)) return;
  calls.remove_tree(path, status);
  leave();
}

/* Return `count` names, each ended by \0 in `joined`, as TensorFlow takes and frees them. */
char **pai_names(const char *joined, int count) {
  char **names = malloc(sizeof *names * (count > 0 ? count : 1));
  for (int i = 0; i < count; i++) {
    names[i] = strdup(joined);
    joined += strlen(joined) + 1;
  }
  return names;
}

/* ====== Registration ====== */

static const FilesystemTable filesystem_table = {
    .init = init,
    .cleanup = cleanup,
    .new_random_access_file = new_reader,
    .new_writable_file = new_writable,
    .new_appendable_file = new_appendable,
    .new_read_only_memory_region_from_file = new_region,
    .create_dir = fs_create_dir,
    .recursively_create_dir = fs_create_dirs,
    .delete_file = fs_remove_file,
    .delete_dir = fs_remove_directory,
    .delete_recursively = fs_remove_tree,
    .rename_file = fs_rename,
    .copy_file = fs_copy,
    .path_exists = fs_exists,
    .stat = fs_stat,
    .is_directory = fs_is_directory,
    .get_file_size = fs_size,
    .translate_name = translate_name,
    .get_children = fs_list,
    .get_matching_paths = fs_match,
};
static const ReaderTable reader_table = {reader_cleanup, reader_read};
static const WriterTable writer_table = {writer_cleanup, writer_append, writer_tell,
                                         writer_flush,   writer_sync,   writer_close};
static const RegionTable region_table = {region_cleanup, region_data, region_length};

/* Say what the next TF_InitPlugin registers. */
void pai_prepare(const Calls *python, const char *names, size_t length) {
  static bool is_prepared;
  if (!is_prepared) {
    pthread_atfork(NULL, NULL, after_fork_in_child);
    pai_keep_threads(python->is_finalizing);
  }
  is_prepared = true;
  calls = *python;
  free(schemes);
  schemes = memcpy(malloc(length), names, length);
}

/* TensorFlow frees the tables. */
static void *copied(const void *table, size_t size) { return memcpy(malloc(size), table, size); }

void TF_InitPlugin(PluginInfo *info) {
  size_t count = 0;
  for (const char *name = schemes; *name != '\0'; name += strlen(name) + 1) count++;
  info->count = count;
  info->plugins = calloc(count, sizeof *info->plugins);
  info->allocate = malloc;
  info->release = free;
  const char *name = schemes;
  for (size_t i = 0; i < count; i++, name += strlen(name) + 1)
    info->plugins[i] = (Plugin){
        .scheme = strdup(name),
        .filesystem_size = sizeof filesystem_table,
        .filesystem = copied(&filesystem_table, sizeof filesystem_table),
        .reader_size = sizeof reader_table,
        .reader = copied(&reader_table, sizeof reader_table),
        .writer_size = sizeof writer_table,
        .writer = copied(&writer_table, sizeof writer_table),
        .region_size = sizeof region_table,
        .region = copied(&region_table, sizeof region_table),
    };
}
