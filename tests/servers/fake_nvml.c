/* A libnvidia-ml.so.1 without a driver: the GPUs that it shows stand in FAKE_NVML.
 *
 * FAKE_NVML:      rows separated by ';', each
 *                 parent,mig,error,uuid,name,total MiB,used MiB,utilisation,processes
 *                 parent: -1 for a card, else the number of the card that this is a MIG device of
 *                 mig: 1 when the card is in MIG mode; -1 for a card that knows no MIG mode
 *                 error: what asking for the card's handle returns (0 is success)
 *                 a measure of -1 is one that the card does not support
 * FAKE_NVML_INIT: what nvmlInit returns (0 is success)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };

struct row {
    int parent, mig, error, utilization, processes;
    char uuid[96], name[96];
    long long total, used;
};
struct memory { unsigned long long total, free, used; };
struct utilization { unsigned int gpu, memory; };
struct process { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; };

static struct row rows[32];
static int row_count;

int nvmlInitWithFlags(unsigned int flags) {
    const char *status = getenv("FAKE_NVML_INIT"), *table = getenv("FAKE_NVML");
    if (status != NULL && atoi(status) != OK) return atoi(status);
    for (row_count = 0; table != NULL && *table != '\0' && row_count < 32; row_count++) {
        struct row *r = &rows[row_count];
        if (sscanf(table, "%d,%d,%d,%95[^,],%95[^,],%lld,%lld,%d,%d", &r->parent, &r->mig, &r->error,
                   r->uuid, r->name, &r->total, &r->used, &r->utilization, &r->processes) != 9)
            return INVALID;
        table = strchr(table, ';');
        table = table == NULL ? "" : table + 1;
    }
    return OK;
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) { return "an error of the fake driver"; }

static struct row *child(int parent, unsigned int number) {
    for (int i = 0; i < row_count; i++)
        if (rows[i].parent == parent && number-- == 0) return &rows[i];
    return NULL;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    for (*count = 0; child(-1, *count) != NULL; ++*count) continue;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct row **device) {
    *device = child(-1, index);
    return *device == NULL ? INVALID : (*device)->error;
}

int nvmlDeviceGetMigMode(struct row *device, unsigned int *current, unsigned int *pending) {
    *current = *pending = device->mig == 1;
    return device->mig < 0 ? UNSUPPORTED : OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct row *device, unsigned int *count) {
    *count = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct row *device, unsigned int index, struct row **part) {
    for (int card = 0; child(-1, card) != NULL; card++)
        if (child(-1, card) == device) *part = child(card, index);
    return *part == NULL ? NOT_FOUND : OK;
}

int nvmlDeviceGetUUID(struct row *device, char *text, unsigned int size) {
    snprintf(text, size, "%s", device->uuid);
    return OK;
}

int nvmlDeviceGetName(struct row *device, char *text, unsigned int size) {
    snprintf(text, size, "%s", device->name);
    return OK;
}

int nvmlDeviceGetMemoryInfo(struct row *device, struct memory *memory) {
    memory->total = device->total << 20;
    memory->used = device->used << 20;
    memory->free = memory->total - memory->used;
    return device->total < 0 ? UNSUPPORTED : OK;
}

int nvmlDeviceGetUtilizationRates(struct row *device, struct utilization *rates) {
    rates->gpu = rates->memory = device->utilization;
    return device->utilization < 0 ? UNSUPPORTED : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct row *device, unsigned int *count,
                                            struct process *processes) {
    if (device->processes < 0) return UNSUPPORTED;
    if (*count < (unsigned int)device->processes) {
        *count = device->processes;
        return TOO_SMALL;
    }
    *count = device->processes;
    for (int i = 0; i < device->processes; i++)
        processes[i] = (struct process){.pid = 1000 + i, .memory = 1 << 20};
    return OK;
}
