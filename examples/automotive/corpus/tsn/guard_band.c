/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file guard_band.c
 * @brief Transmission times and guard bands at the end of a gate window.
 */
#include <stdbool.h>
#include <stdint.h>

/** Preamble, start delimiter, FCS and inter-packet gap. */
static const uint32_t WIRE_OVERHEAD_BYTES = 24U;

/**
 * @brief Compute how long a frame is on the wire.
 * @param payload_bytes Frame length without preamble, FCS and gap.
 * @param link_mbps Link speed in megabits per second.
 * @return Time in nanoseconds, rounded up.
 */
uint32_t guard_wire_time(uint16_t payload_bytes, uint32_t link_mbps) {
    uint32_t wire_time = 0U;

    if (link_mbps > 0U) {
        const uint64_t bits = ((uint64_t)payload_bytes + WIRE_OVERHEAD_BYTES) * 8U;
        wire_time = (uint32_t)(((bits * 1000U) + (link_mbps - 1U)) / link_mbps);
    }
    return wire_time;
}

/**
 * @brief Decide whether a frame may start before its gate closes.
 * @param timestamp Current time.
 * @param gate_close Time at which the gate closes.
 * @param wire_time Time that the frame needs.
 * @return True if the frame ends before the gate closes.
 */
bool guard_frame_fits(uint64_t timestamp, uint64_t gate_close, uint32_t wire_time) {
    bool fits = false;

    if (timestamp < gate_close) {
        const uint64_t window = gate_close - timestamp;
        fits = (wire_time <= window);
    }
    return fits;
}

/**
 * @brief Compute the part of a schedule that guard bands waste.
 * @param guard_time Guard band before each protected gate.
 * @param window_count Protected gates in a cycle.
 * @param cycle_time Length of a cycle.
 * @return Waste in per mille, at most 1000.
 */
uint16_t guard_waste_permille(uint32_t guard_time, uint8_t window_count, uint32_t cycle_time) {
    uint16_t waste = 1000U;

    if (cycle_time > 0U) {
        const uint64_t lost = (uint64_t)guard_time * window_count * 1000U;
        const uint64_t share = lost / cycle_time;
        waste = (share < 1000U) ? (uint16_t)share : 1000U;
    }
    return waste;
}
