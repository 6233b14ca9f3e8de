/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file pdelay.c
 * @brief Peer delay measurement between two gPTP neighbours.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PDELAY_LOST_LIMIT 3U

/** The four timestamps of one exchange, in nanoseconds. */
typedef struct {
    uint64_t request_sent;       /**< t1, local clock. */
    uint64_t request_received;   /**< t2, neighbour's clock. */
    uint64_t response_sent;      /**< t3, neighbour's clock. */
    uint64_t response_received;  /**< t4, local clock. */
} pdelay_exchange_t;

/** Filtered result of many exchanges. */
typedef struct {
    uint32_t mean_delay_ns;
    uint8_t lost_responses;
    bool valid;
} pdelay_link_t;

/**
 * @brief Compute the link delay of one exchange.
 * @param exchange Timestamps of the exchange.
 * @param delay_ns Computed delay.
 * @return True if the timestamps are in order.
 */
bool pdelay_compute(const pdelay_exchange_t *exchange, uint32_t *delay_ns) {
    bool valid = false;

    if ((exchange != NULL) && (delay_ns != NULL) && (exchange->response_received >= exchange->request_sent) &&
        (exchange->response_sent >= exchange->request_received)) {
        const uint64_t round_trip = exchange->response_received - exchange->request_sent;
        const uint64_t turnaround = exchange->response_sent - exchange->request_received;
        if (round_trip >= turnaround) {
            *delay_ns = (uint32_t)((round_trip - turnaround) / 2U);
            valid = true;
        }
    }
    return valid;
}

/**
 * @brief Take a new delay into the mean of the link.
 * @param link Link to update.
 * @param delay_ns Delay of the latest exchange.
 * @return Mean delay in nanoseconds.
 */
uint32_t pdelay_filter(pdelay_link_t *link, uint32_t delay_ns) {
    uint32_t mean = delay_ns;

    if (link != NULL) {
        if (link->valid) {
            mean = (uint32_t)((((uint64_t)link->mean_delay_ns * 7U) + delay_ns) / 8U);
        }
        link->mean_delay_ns = mean;
        link->lost_responses = 0U;
        link->valid = true;
    }
    return mean;
}

/**
 * @brief Count a response that did not come.
 * @param link Link to update.
 * @return True if the link still counts as measured.
 */
bool pdelay_response_lost(pdelay_link_t *link) {
    bool measured = false;

    if (link != NULL) {
        if (link->lost_responses < PDELAY_LOST_LIMIT) {
            link->lost_responses++;
        }
        if (link->lost_responses >= PDELAY_LOST_LIMIT) {
            link->valid = false;
        }
        measured = link->valid;
    }
    return measured;
}

/**
 * @brief Compute the rate of the neighbour's clock against the local one.
 * @param neighbour_time Nanoseconds that passed on the neighbour's clock.
 * @param local_time Nanoseconds that passed on the local clock.
 * @return Difference in parts per billion, 0 without a measurement.
 */
int64_t pdelay_rate_ppb(uint32_t neighbour_time, uint32_t local_time) {
    int64_t rate = 0;

    if (local_time > 0U) {
        const int64_t difference = (int64_t)neighbour_time - (int64_t)local_time;
        rate = (difference * 1000000000) / (int64_t)local_time;
    }
    return rate;
}
