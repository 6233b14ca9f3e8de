/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file shaper_config.c
 * @brief Shares of a port that the shapers of its priorities may take.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHAPER_PRIORITY_COUNT 8U
#define SHAPER_MAX_PERCENT 75U

/**
 * @brief Sum the shares of all shaped priorities.
 * @param percent Share of each priority.
 * @param priority_count Number of priorities.
 * @return Total share in percent.
 */
uint16_t shaper_total_percent(const uint8_t *percent, uint8_t priority_count) {
    uint16_t total = 0U;

    if ((percent != NULL) && (priority_count <= SHAPER_PRIORITY_COUNT)) {
        for (uint8_t i = 0U; i < priority_count; i++) {
            total = (uint16_t)(total + percent[i]);
        }
    }
    return total;
}

/**
 * @brief Check that best effort traffic keeps its part of the port.
 * @param percent Share of each priority.
 * @param priority_count Number of priorities.
 * @return True if the shapers take 75 percent or less.
 */
bool shaper_config_valid(const uint8_t *percent, uint8_t priority_count) {
    bool valid = false;

    if ((percent != NULL) && (priority_count > 0U)) {
        const uint16_t total = shaper_total_percent(percent, priority_count);
        valid = (priority_count <= SHAPER_PRIORITY_COUNT) && (total <= SHAPER_MAX_PERCENT);
    }
    return valid;
}

/**
 * @brief Compute how many microseconds a shaper needs to recover.
 * @param debt_bits Bits that the credit is below zero.
 * @param shaper_rate Idle slope in bits per microsecond.
 * @return Microseconds until the credit is zero, rounded up.
 */
uint32_t shaper_recovery_time(uint32_t debt_bits, uint32_t shaper_rate) {
    uint32_t recovery = 0U;

    if (shaper_rate > 0U) {
        recovery = debt_bits / shaper_rate;
        if ((debt_bits % shaper_rate) != 0U) {
            recovery++;
        }
    }
    return recovery;
}

/**
 * @brief Compute the longest burst that one priority may send.
 * @param hi_credit Upper limit of the credit in bits.
 * @param send_slope Loss of credit in bits per microsecond, as a positive number.
 * @param port_rate Rate of the port in bits per microsecond.
 * @return Burst in bits.
 */
uint64_t shaper_max_burst(uint32_t hi_credit, uint32_t send_slope, uint32_t port_rate) {
    uint64_t burst = 0U;

    if (send_slope > 0U) {
        const uint64_t scaled = (uint64_t)hi_credit * port_rate;
        burst = scaled / send_slope;
    }
    return burst;
}
