/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cyclic_queuing.c
 * @brief Cyclic queuing and forwarding with two queues (IEEE 802.1Qch).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Load of the two queues that take turns. */
typedef struct {
    uint32_t cycle_ns;
    uint32_t capacity_bytes;
    uint32_t load_bytes[2];
    uint8_t filling;
} cqf_port_t;

/**
 * @brief Swap the queues at the start of a cycle.
 * @param port Port to advance.
 * @return Queue that is drained in the new cycle.
 */
uint8_t cqf_swap(cqf_port_t *port) {
    uint8_t draining = 0U;

    if (port != NULL) {
        draining = port->filling;
        port->filling = (uint8_t)(1U - (draining & 1U));
        port->load_bytes[port->filling] = 0U;
    }
    return draining;
}

/**
 * @brief Admit a frame to the queue that is being filled.
 * @param port Port that received the frame.
 * @param frame_bytes Length of the frame.
 * @return True if the frame still fits in this cycle.
 */
bool cqf_admit(cqf_port_t *port, uint16_t frame_bytes) {
    bool admitted = false;

    if ((port != NULL) && (port->filling <= 1U)) {
        const uint32_t load = port->load_bytes[port->filling];
        if ((load <= port->capacity_bytes) && (frame_bytes <= (port->capacity_bytes - load))) {
            port->load_bytes[port->filling] = load + frame_bytes;
            admitted = true;
        }
    }
    return admitted;
}

/**
 * @brief Compute the worst latency over a path.
 * @param hop_count Number of bridges on the path.
 * @param cycle_ns Cycle time of every bridge.
 * @return Latency in nanoseconds.
 */
uint64_t cqf_max_latency(uint8_t hop_count, uint32_t cycle_ns) {
    uint64_t latency = 0U;

    if (cycle_ns > 0U) {
        const uint64_t cycles = (uint64_t)hop_count + 1U;
        latency = cycles * cycle_ns;
    }
    return latency;
}

/**
 * @brief Compute the lowest latency over a path.
 * @param hop_count Number of bridges on the path.
 * @param cycle_ns Cycle time of every bridge.
 * @return Latency in nanoseconds.
 */
uint64_t cqf_min_latency(uint8_t hop_count, uint32_t cycle_ns) {
    uint64_t latency = 0U;

    if (hop_count > 1U) {
        const uint64_t cycles = (uint64_t)hop_count - 1U;
        latency = cycles * cycle_ns;
    }
    return latency;
}
