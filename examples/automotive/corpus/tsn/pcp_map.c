/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file pcp_map.c
 * @brief Map priority code points to traffic classes and back.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCP_COUNT 8U

/** Recommended traffic class of each PCP, one row per number of queues. */
static const uint8_t PCP_TO_CLASS[4][PCP_COUNT] = {
    {0U, 0U, 0U, 0U, 0U, 0U, 0U, 0U},
    {0U, 0U, 0U, 0U, 1U, 1U, 1U, 1U},
    {0U, 0U, 0U, 0U, 1U, 1U, 2U, 2U},
    {1U, 0U, 1U, 1U, 2U, 2U, 3U, 3U},
};

/**
 * @brief Find the traffic class of a PCP.
 * @param pcp Priority code point of the frame.
 * @param queue_count Number of queues, 1 to 4.
 * @return Traffic class, the lowest one for bad input.
 */
uint8_t pcp_traffic_class(uint8_t pcp, uint8_t queue_count) {
    uint8_t traffic_class = 0U;

    if ((pcp < PCP_COUNT) && (queue_count >= 1U) && (queue_count <= 4U)) {
        traffic_class = PCP_TO_CLASS[queue_count - 1U][pcp];
    }
    return traffic_class;
}

/**
 * @brief Collect the PCPs that share one traffic class.
 * @param traffic_class Class to look for.
 * @param queue_count Number of queues, 1 to 4.
 * @return One bit per PCP.
 */
uint8_t pcp_mask_of_class(uint8_t traffic_class, uint8_t queue_count) {
    uint8_t mask = 0U;

    if ((queue_count >= 1U) && (queue_count <= 4U)) {
        for (uint8_t pcp = 0U; pcp < PCP_COUNT; pcp++) {
            if (PCP_TO_CLASS[queue_count - 1U][pcp] == traffic_class) {
                mask = (uint8_t)(mask | (1U << pcp));
            }
        }
    }
    return mask;
}

/**
 * @brief Regenerate the priority of a received frame with the table of the port.
 * @param table New priority of each PCP.
 * @param pcp Received priority code point.
 * @param trusted Whether the port trusts its neighbour.
 * @return Priority to use inside the bridge.
 */
uint8_t pcp_regenerate(const uint8_t table[PCP_COUNT], uint8_t pcp, bool trusted) {
    uint8_t priority = 0U;

    if ((table != NULL) && (pcp < PCP_COUNT) && trusted) {
        const uint8_t regenerated = table[pcp];
        priority = (regenerated < PCP_COUNT) ? regenerated : 0U;
    }
    return priority;
}
