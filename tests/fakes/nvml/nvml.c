/* SIMULATED: answers in NVML's place from a file, so that the real nvidia-ml-py runs without a GPU.
 *
 * Only tests compile it. It exports `enginekeeper_simulated_nvml`, by which everything that reads
 * it knows what it is, and starts only where ENGINEKEEPER_SIMULATED_NVML names its file. The file
 * is read anew at every call: what is changed in it changes under a running process, as a driver
 * does. One word and its value a line; tests/fakes/simulated_nvml.py writes it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10,
       LOST = 15 };
enum { LINE = 256, LINES = 2048, SLICES = 7 };

const char enginekeeper_simulated_nvml[] = "simulated";

typedef struct { char word[64], value[LINE]; } Entry;
typedef struct { Entry at[LINES]; int count; } Table;

static int load(Table *table) {
    const char *path = getenv("ENGINEKEEPER_SIMULATED_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE + 64];
    table->count = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file) && table->count < LINES) {
        Entry *one = &table->at[table->count];
        if (sscanf(line, "%63s %255[^\n]", one->word, one->value) == 2) table->count++;
    }
    fclose(file);
    return 1;
}

/* The lines of a GPU are those after its `gpu` line; those before the first are the system's. */
static void bounds(const Table *table, int gpu, int *from, int *to) {
    int seen = -1;
    *from = *to = table->count;
    for (int i = 0; i < table->count; i++) {
        if (strcmp(table->at[i].word, "gpu")) continue;
        seen++;
        if (seen == gpu) *from = i;
        if (seen == gpu + 1) { *to = i; break; }
    }
    if (gpu < 0) { *from = 0; }
}

static const char *nth(const Table *table, int gpu, const char *word, int n) {
    int from, to;
    bounds(table, gpu, &from, &to);
    for (int i = from; i < to; i++)
        if (!strcmp(table->at[i].word, word) && n-- == 0) return table->at[i].value;
    return NULL;
}

static int gpus(const Table *table) {
    int n = 0;
    for (int i = 0; i < table->count; i++) n += !strcmp(table->at[i].word, "gpu");
    return n;
}

/* Whether a call is told to fail, for the system (gpu -1) or for one GPU. */
static int failure(const Table *table, int gpu, const char *call) {
    char name[128];
    int code;
    if (gpu >= 0 && nth(table, gpu, "lost", 0)) return LOST;
    for (int i = 0; nth(table, gpu, "error", i); i++)
        if (sscanf(nth(table, gpu, "error", i), "%127s %d", name, &code) == 2 && !strcmp(name, call))
            return code;
    return OK;
}

/* A handle is 1000 x (GPU + 1), and for a slice its number + 1 more. */
static int gpu_of(void *handle) { return (int)((size_t)handle / 1000) - 1; }
static int slice_of(void *handle) { return (int)((size_t)handle % 1000) - 1; }

#define START(gpu) \
    Table table; int code_; \
    if (!load(&table)) return NO_DRIVER; \
    if ((code_ = failure(&table, gpu, __func__))) return code_;

static int put(const char *value, char *out, unsigned size) {
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) >= size) return SMALL;
    strcpy(out, value);
    return OK;
}

static int number(const char *value, unsigned *out) {
    if (!value) return NOT_SUPPORTED;
    *out = (unsigned)strtoul(value, NULL, 10);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) { START(-1); return (void)flags, OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return (void)code, "simulated error"; }

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    START(-1); return put(nth(&table, -1, "driver", 0), out, size);
}
int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    START(-1); return put("simulated", out, size);
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    START(-1); return number(nth(&table, -1, "cuda", 0), (unsigned *)out);
}
typedef struct { unsigned version; char branch[80]; } Branch;
int nvmlSystemGetDriverBranch(Branch *out, unsigned size) {
    START(-1); return put(nth(&table, -1, "branch", 0), out->branch, size);
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    START(-1); *out = (unsigned)gpus(&table); return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    START((int)index);
    if ((int)index >= gpus(&table)) return INVALID;
    *out = (void *)(size_t)(1000 * (index + 1));
    return OK;
}
int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    char name[2 * LINE], uuid[LINE], profile[64];
    START(gpu_of(device));
    const char *product = nth(&table, gpu_of(device), "name", 0);
    if (slice_of(device) < 0) return put(product, out, size);
    const char *slice = nth(&table, gpu_of(device), "slice", slice_of(device));
    if (!slice || sscanf(slice, "%255s %63s", uuid, profile) != 2) return NOT_FOUND;
    snprintf(name, sizeof name, "%s MIG %s", product, profile);
    return put(name, out, size);
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    char uuid[LINE] = "";
    START(gpu_of(device));
    if (slice_of(device) < 0) return put(nth(&table, gpu_of(device), "gpu", 0), out, size);
    const char *slice = nth(&table, gpu_of(device), "slice", slice_of(device));
    return slice && sscanf(slice, "%255s", uuid) == 1 ? put(uuid, out, size) : NOT_FOUND;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    START(gpu_of(device));
    const char *value = nth(&table, gpu_of(device), "capability", 0);
    return value && sscanf(value, "%d %d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(void *device, Memory *out) {
    START(gpu_of(device));
    const char *value = nth(&table, gpu_of(device), "memory", 0);
    if (!value) return NOT_SUPPORTED;
    out->total = out->free = strtoull(value, NULL, 10);
    out->used = 0;
    return OK;
}

#define TEXT(call, word) \
    int call(void *device, char *out, unsigned size) { \
        START(gpu_of(device)); return put(nth(&table, gpu_of(device), word, 0), out, size); }
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
TEXT(nvmlDeviceGetSerial, "serial")

int nvmlDeviceGetGspFirmwareVersion(void *device, char *out) {
    START(gpu_of(device)); return put(nth(&table, gpu_of(device), "gsp", 0), out, 64);
}
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
int nvmlDeviceGetPciInfo_v3(void *device, Pci *out) {
    START(gpu_of(device)); return put(nth(&table, gpu_of(device), "pci", 0), out->bus_id, 32);
}

#define MODE(call, word) \
    int call(void *device, unsigned *current, unsigned *pending) { \
        START(gpu_of(device)); *pending = 0; \
        return number(nth(&table, gpu_of(device), word, 0), current); }
MODE(nvmlDeviceGetMigMode, "mig")
MODE(nvmlDeviceGetEccMode, "ecc")

int nvmlDeviceGetTotalEccErrors(void *device, int type, int since, unsigned long long *out) {
    unsigned errors = 0;
    START(gpu_of(device));
    int code = number(nth(&table, gpu_of(device), "ecc_errors", 0), &errors);
    *out = errors;
    return (void)type, (void)since, code;
}
int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    unsigned links = 0;
    START(gpu_of(device));
    if (number(nth(&table, gpu_of(device), "nvlinks", 0), &links)) return NOT_SUPPORTED;
    *active = 1;
    return link < links ? OK : INVALID;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *out) {
    START(gpu_of(device)); *out = SLICES; return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **out) {
    START(gpu_of(device));
    if (!nth(&table, gpu_of(device), "slice", (int)index)) return NOT_FOUND;
    *out = (char *)device + index + 1;
    return OK;
}
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } Process;
/* A line `process` has a pid, bytes and the number of a slice; of a GPU that is not split, none.
 * A slice names its own, the GPU all of them. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *size, Process *out) {
    Process found[LINES];
    unsigned n = 0;
    const char *value;
    START(gpu_of(device));
    for (int i = 0; n < LINES && (value = nth(&table, gpu_of(device), "process", i)); i++) {
        int slice = -1;
        Process one = { 0, 0, 0xffffffffu, 0xffffffffu };
        if (sscanf(value, "%u %llu %d", &one.pid, &one.memory, &slice) < 2) return INVALID;
        if (slice >= 0) { one.gi = (unsigned)slice + 1; one.ci = 0; }
        if (slice_of(device) < 0 || slice_of(device) == slice) found[n++] = one;
    }
    int room = out && *size >= n;
    *size = n;
    if (!n) return OK;
    if (!room) return SMALL;
    memcpy(out, found, n * sizeof *found);
    return OK;
}
int nvmlDeviceGetRemappedRows(void *device, unsigned *corrected, unsigned *uncorrected,
                              unsigned *pending, unsigned *failed) {
    START(gpu_of(device));
    const char *value = nth(&table, gpu_of(device), "rows", 0);
    if (!value) return NOT_SUPPORTED;
    return sscanf(value, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4 ? OK : INVALID;
}

/* Events: each line `xid` of a GPU is one, and so is that it is lost. Only those that come after a
 * set was registered for a GPU are told, as NVML does. */
enum { XID_EVENT = 8, GPUS = 64 };
typedef struct { void *device[GPUS]; int told[GPUS], count; } EventSet;
typedef struct {
    void *device; unsigned long long type, data; unsigned gi, ci;
} Event;

static int xids(const Table *table, int gpu) {
    int n = 0;
    while (nth(table, gpu, "xid", n)) n++;
    return n + (nth(table, gpu, "lost", 0) != NULL);
}
int nvmlEventSetCreate(EventSet **out) {
    START(-1);
    *out = calloc(1, sizeof **out);
    return *out ? OK : INVALID;
}
int nvmlEventSetFree(EventSet *set) { free(set); return OK; }
int nvmlDeviceGetSupportedEventTypes(void *device, unsigned long long *out) {
    START(gpu_of(device)); *out = XID_EVENT; return OK;
}
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, EventSet *set) {
    START(gpu_of(device));
    if (types != XID_EVENT || set->count == GPUS) return INVALID;
    set->device[set->count] = device;
    set->told[set->count++] = xids(&table, gpu_of(device));
    return OK;
}
int nvmlEventSetWait_v2(EventSet *set, Event *out, unsigned milliseconds) {
    const struct timespec pause = { 0, 20 * 1000 * 1000 };
    for (unsigned waited = 0; ; waited += 20) {
        START(-1);
        for (int i = 0; i < set->count; i++) {
            int gpu = gpu_of(set->device[i]);
            if (set->told[i] >= xids(&table, gpu)) continue;
            const char *value = nth(&table, gpu, "xid", set->told[i]++);
            if (!value) value = nth(&table, gpu, "lost", 0);
            memset(out, 0, sizeof *out);
            out->device = set->device[i];
            out->type = XID_EVENT;
            out->data = strtoull(value, NULL, 10);
            return OK;
        }
        if (waited >= milliseconds) return TIMEOUT;
        nanosleep(&pause, NULL);
    }
}
