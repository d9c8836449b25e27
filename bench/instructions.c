// A plugin of qemu-user that counts the instructions of an arm64 program, for bench/neon.py. At the end, it prints how many
// were executed, how many of these were vector multiply-adds, and how many read or write memory.
//
// The counters are not atomic: programs with threads that compute at the same time lose counts.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// What is used of version 1 of QEMU's interface; its header is in no package of Debian.
typedef uint64_t plugin;
struct block;
struct instruction;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin, void (*)(plugin, struct block *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(plugin, void (*)(plugin, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);
enum { ADD_U64 = 0 };

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

static uint64_t all, multiply_adds, memory;

static void translated(plugin id, struct block *block) {
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    uint64_t of_block[2] = {0, 0};
    for (size_t i = 0; i < count; i++) {
        uint32_t word = *(const uint32_t *)qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i));
        // FMLA with vectors, and with an element of a vector.
        of_block[0] += (word & 0xBFA0FC00) == 0x0E20CC00 || (word & 0xBF80F400) == 0x0F801000;
        // The group "loads and stores".
        of_block[1] += (word & 0x0A000000) == 0x08000000;
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &all, count);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &multiply_adds, of_block[0]);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &memory, of_block[1]);
}

static void ended(plugin id, void *data) {
    (void)id;
    (void)data;
    fprintf(stderr, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", all, multiply_adds, memory);
}

EXPORT int qemu_plugin_install(plugin id, const void *info, int argc, char **argv) {
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
