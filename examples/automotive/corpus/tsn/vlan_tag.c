/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file vlan_tag.c
 * @brief Read, insert and filter VLAN tags (IEEE 802.1Q).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VLAN_TPID 0x8100U
#define VLAN_OFFSET 12U
#define VLAN_TAG_BYTES 4U

/**
 * @brief Tell whether an Ethernet frame carries a VLAN tag.
 * @param frame First byte of the frame.
 * @param length Length of the frame.
 * @return True if the EtherType is the VLAN TPID.
 */
bool vlan_is_tagged(const uint8_t *frame, uint16_t length) {
    bool tagged = false;

    if ((frame != NULL) && (length >= (VLAN_OFFSET + VLAN_TAG_BYTES))) {
        const uint32_t type = ((uint32_t)frame[VLAN_OFFSET] << 8U) | frame[VLAN_OFFSET + 1U];
        tagged = (type == VLAN_TPID);
    }
    return tagged;
}

/**
 * @brief Read the VLAN identifier of a frame.
 * @param frame First byte of the frame.
 * @param length Length of the frame.
 * @param default_vlan VLAN of frames without a tag.
 * @return VLAN identifier.
 */
uint16_t vlan_of_frame(const uint8_t *frame, uint16_t length, uint16_t default_vlan) {
    uint16_t vlan = default_vlan;

    if (vlan_is_tagged(frame, length)) {
        const uint32_t control = ((uint32_t)frame[VLAN_OFFSET + 2U] << 8U) | frame[VLAN_OFFSET + 3U];
        const uint16_t tagged_vlan = (uint16_t)(control & 0x0FFFU);
        vlan = (tagged_vlan != 0U) ? tagged_vlan : default_vlan;
    }
    return vlan;
}

/**
 * @brief Insert a VLAN tag behind the two MAC addresses.
 * @param frame Frame with room for four more bytes.
 * @param length Length of the frame without the tag.
 * @param capacity Size of the buffer.
 * @param control Tag control information.
 * @return New length, or the old one if there was no room.
 */
uint16_t vlan_insert_tag(uint8_t *frame, uint16_t length, uint16_t capacity, uint16_t control) {
    uint16_t new_length = length;

    if ((frame != NULL) && (length >= VLAN_OFFSET) && (capacity >= VLAN_TAG_BYTES) &&
        (length <= (capacity - VLAN_TAG_BYTES))) {
        const size_t rest = (size_t)length - VLAN_OFFSET;
        (void)memmove(&frame[VLAN_OFFSET + VLAN_TAG_BYTES], &frame[VLAN_OFFSET], rest);
        frame[VLAN_OFFSET] = (uint8_t)(VLAN_TPID >> 8U);
        frame[VLAN_OFFSET + 1U] = (uint8_t)(VLAN_TPID & 0xFFU);
        frame[VLAN_OFFSET + 2U] = (uint8_t)(control >> 8U);
        frame[VLAN_OFFSET + 3U] = (uint8_t)(control & 0xFFU);
        new_length = (uint16_t)(length + VLAN_TAG_BYTES);
    }
    return new_length;
}

/**
 * @brief Check a VLAN against the members of a port.
 * @param members Sorted list of allowed VLANs.
 * @param member_count Length of the list.
 * @param vlan VLAN of the frame.
 * @return True if the port is a member.
 */
bool vlan_is_member(const uint16_t *members, uint8_t member_count, uint16_t vlan) {
    bool found = false;

    if (members != NULL) {
        for (uint8_t i = 0U; (i < member_count) && (members[i] <= vlan); i++) {
            found = (members[i] == vlan);
        }
    }
    return found;
}
