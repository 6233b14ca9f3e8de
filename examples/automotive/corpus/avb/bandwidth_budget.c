/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file bandwidth_budget.c
 * @brief Bandwidth of AVB classes A and B on a port, in kilobits per second.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Bytes around a frame: preamble, header, VLAN tag, FCS and gap. */
static const uint32_t FRAME_OVERHEAD_BYTES = 42U;

/** Budget of one port. */
typedef struct {
    uint32_t port_kbps;
    uint32_t class_a_kbps;
    uint32_t class_b_kbps;
    uint8_t limit_percent;
} bandwidth_budget_t;

/**
 * @brief Compute the bandwidth of a traffic specification.
 * @param max_frame_bytes Longest payload of the stream.
 * @param frames_per_interval Frames in one class interval.
 * @param intervals_per_second 8000 for class A, 4000 for class B.
 * @return Bandwidth in kilobits per second, rounded up.
 */
uint32_t bandwidth_of_tspec(uint16_t max_frame_bytes, uint16_t frames_per_interval, uint16_t intervals_per_second) {
    const uint64_t frame_bits = ((uint64_t)max_frame_bytes + FRAME_OVERHEAD_BYTES) * 8U;
    const uint64_t frame_rate = (uint64_t)frames_per_interval * intervals_per_second;
    uint64_t kbps = ((frame_bits * frame_rate) + 999U) / 1000U;

    if (kbps > UINT32_MAX) {
        kbps = UINT32_MAX;
    }
    return (uint32_t)kbps;
}

/**
 * @brief Compute what a port may still reserve.
 * @param budget Budget of the port.
 * @return Free bandwidth in kilobits per second.
 */
uint32_t bandwidth_free(const bandwidth_budget_t *budget) {
    uint32_t free_kbps = 0U;

    if (budget != NULL) {
        const uint64_t limit = ((uint64_t)budget->port_kbps * budget->limit_percent) / 100U;
        const uint64_t used = (uint64_t)budget->class_a_kbps + budget->class_b_kbps;
        if (used < limit) {
            free_kbps = (uint32_t)(limit - used);
        }
    }
    return free_kbps;
}

/**
 * @brief Take bandwidth for a stream.
 * @param budget Budget of the port.
 * @param kbps Bandwidth of the stream.
 * @param class_a True for class A, false for class B.
 * @return True if the port had enough left.
 */
bool bandwidth_take(bandwidth_budget_t *budget, uint32_t kbps, bool class_a) {
    bool taken = false;

    if ((budget != NULL) && (kbps <= bandwidth_free(budget))) {
        if (class_a) {
            budget->class_a_kbps += kbps;
        } else {
            budget->class_b_kbps += kbps;
        }
        taken = true;
    }
    return taken;
}

/**
 * @brief Give the bandwidth of a stream back.
 * @param budget Budget of the port.
 * @param kbps Bandwidth of the stream.
 * @param class_a True for class A, false for class B.
 */
void bandwidth_release(bandwidth_budget_t *budget, uint32_t kbps, bool class_a) {
    if (budget != NULL) {
        uint32_t *const used = class_a ? &budget->class_a_kbps : &budget->class_b_kbps;
        if (kbps < *used) {
            *used -= kbps;
        } else {
            *used = 0U;
        }
    }
}
