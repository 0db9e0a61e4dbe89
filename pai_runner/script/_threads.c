/* Keeps Python from ending its threads in the middle of TensorFlow's C++.
 *
 * Python before 3.14 calls pthread_exit for a daemon thread that asks for the interpreter's lock
 * while the interpreter ends. With glibc that unwinds the thread's stack, which C++ functions that
 * promise not to throw answer by ending the process: "FATAL: exception not rethrown". From 3.14 on
 * Python lets such a thread wait until the process has ended. pai_keep_threads() makes earlier ones
 * do so: Python's call to pthread_exit, an entry in a table that the dynamic linker has filled,
 * comes here.
 */
#define _GNU_SOURCE /* dladdr1 */
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

static int (*python_ends)(void);

#if defined(__GLIBC__) && defined(__LP64__)
#include <dlfcn.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>

static void end_thread(void *result) {
  if (python_ends())
    for (;;) pause();
  pthread_exit(result);
}

/* Let the entry lead to end_thread. The linker may have made its page read-only. */
static void replace(void **entry) {
  const uintptr_t page_size = (uintptr_t)sysconf(_SC_PAGESIZE);
  const uintptr_t page = (uintptr_t)entry & ~(page_size - 1);
  if (mprotect((void *)page, page_size, PROT_READ | PROT_WRITE) == 0) *entry = (void *)end_thread;
}

/* Where the linker has loaded what the table speaks of. It has added that to most addresses. */
static const void *at(const struct link_map *object, ElfW(Addr) address) {
  return (const void *)(address < object->l_addr ? object->l_addr + address : address);
}

static void replace_all(const struct link_map *object) {
  const ElfW(Sym) *symbols = NULL;
  const char *names = NULL;
  const ElfW(Rela) *tables[2] = {NULL, NULL}; /* of functions, and of all else */
  size_t sizes[2] = {0, 0};
  for (const ElfW(Dyn) *entry = object->l_ld; entry->d_tag != DT_NULL; entry++) {
    if (entry->d_tag == DT_SYMTAB) symbols = at(object, entry->d_un.d_ptr);
    if (entry->d_tag == DT_STRTAB) names = at(object, entry->d_un.d_ptr);
    if (entry->d_tag == DT_JMPREL) tables[0] = at(object, entry->d_un.d_ptr);
    if (entry->d_tag == DT_RELA) tables[1] = at(object, entry->d_un.d_ptr);
    if (entry->d_tag == DT_PLTRELSZ) sizes[0] = entry->d_un.d_val;
    if (entry->d_tag == DT_RELASZ) sizes[1] = entry->d_un.d_val;
  }
  if (symbols == NULL || names == NULL) return;
  for (int table = 0; table < 2; table++) {
    if (tables[table] == NULL) continue;
    for (size_t i = 0; i < sizes[table] / sizeof *tables[table]; i++) {
      const ElfW(Rela) *relocation = &tables[table][i];
      const ElfW(Sym) *symbol = &symbols[ELF64_R_SYM(relocation->r_info)];
      if (strcmp(names + symbol->st_name, "pthread_exit") == 0)
        replace((void **)(object->l_addr + relocation->r_offset));
    }
  }
}

/* From now on a thread that Python would end while it `is_finalizing`, which is a function of its
 * library's, waits instead. */
void pai_keep_threads(int (*is_finalizing)(void)) {
  Dl_info unused;
  struct link_map *object = NULL;
  if (python_ends != NULL) return;
  python_ends = is_finalizing;
  if (dladdr1((void *)is_finalizing, &unused, (void **)&object, RTLD_DL_LINKMAP) != 0)
    replace_all(object);
}

#else

/* Elsewhere pthread_exit leaves C++ alone. */
void pai_keep_threads(int (*is_finalizing)(void)) { python_ends = is_finalizing; }

#endif
