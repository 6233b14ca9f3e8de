/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file can_bridge.c
 * @brief Carry CAN frames between the simulated vehicle and Ethernet.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CAN_DATA_BYTES 8U
#define CAN_RECORD_BYTES 13U
#define CAN_ID_MASK 0x1FFFFFFFU

/** One classic CAN frame. */
typedef struct {
    uint32_t id;
    uint8_t length;
    uint8_t data[CAN_DATA_BYTES];
} can_frame_t;

/** A rule: frames of these ids are forwarded, not more often than the interval. */
typedef struct {
    uint32_t first_id;
    uint32_t last_id;
    uint32_t interval_ms;
    uint32_t last_ms;
    bool used;
} can_rule_t;

/**
 * @brief Append a frame to an Ethernet payload.
 * @param frame Frame to append.
 * @param payload Payload of the packet.
 * @param used Bytes of the payload that are in use.
 * @param capacity Size of the payload.
 * @return Bytes in use afterwards; the same as before if there was no room.
 */
uint16_t can_append(const can_frame_t *frame, uint8_t *payload, uint16_t used, uint16_t capacity) {
    uint16_t new_used = used;

    if ((frame != NULL) && (payload != NULL) && (frame->length <= CAN_DATA_BYTES) &&
        (((uint32_t)used + CAN_RECORD_BYTES) <= capacity)) {
        const uint32_t id = frame->id & CAN_ID_MASK;
        payload[used] = (uint8_t)(id >> 24U);
        payload[used + 1U] = (uint8_t)((id >> 16U) & 0xFFU);
        payload[used + 2U] = (uint8_t)((id >> 8U) & 0xFFU);
        payload[used + 3U] = (uint8_t)(id & 0xFFU);
        payload[used + 4U] = frame->length;
        (void)memcpy(&payload[used + 5U], frame->data, CAN_DATA_BYTES);
        new_used = (uint16_t)(used + CAN_RECORD_BYTES);
    }
    return new_used;
}

/**
 * @brief Read one frame from an Ethernet payload.
 * @param payload Payload of the packet.
 * @param length Length of the payload.
 * @param index Number of the frame, from 0.
 * @param frame Frame that was read.
 * @return True if the frame is there and valid.
 */
bool can_extract(const uint8_t *payload, uint16_t length, uint16_t index, can_frame_t *frame) {
    const uint32_t start = (uint32_t)index * CAN_RECORD_BYTES;
    bool valid = false;

    if ((payload != NULL) && (frame != NULL) && ((start + CAN_RECORD_BYTES) <= length)) {
        frame->id = ((uint32_t)payload[start] << 24U) | ((uint32_t)payload[start + 1U] << 16U) |
                    ((uint32_t)payload[start + 2U] << 8U) | payload[start + 3U];
        frame->length = payload[start + 4U];
        (void)memcpy(frame->data, &payload[start + 5U], CAN_DATA_BYTES);
        valid = (frame->id <= CAN_ID_MASK) && (frame->length <= CAN_DATA_BYTES);
    }
    return valid;
}

/**
 * @brief Decide whether a rule forwards a frame now.
 * @param rule Rule of the bridge.
 * @param id Identifier of the frame.
 * @param now_ms Current time.
 * @return True if the frame is forwarded.
 */
bool can_rule_forwards(can_rule_t *rule, uint32_t id, uint32_t now_ms) {
    bool forwards = false;

    if ((rule != NULL) && (id >= rule->first_id) && (id <= rule->last_id)) {
        const uint32_t elapsed = now_ms - rule->last_ms;
        if ((!rule->used) || (elapsed >= rule->interval_ms)) {
            rule->last_ms = now_ms;
            rule->used = true;
            forwards = true;
        }
    }
    return forwards;
}
