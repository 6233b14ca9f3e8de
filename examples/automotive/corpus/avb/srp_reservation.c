/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file srp_reservation.c
 * @brief Reservations that a bridge holds, and what happens when one does not fit.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESERVATION_SLOTS 16U

/** One reservation on an egress port. */
typedef struct {
    uint64_t stream_id;
    uint32_t bandwidth_kbps;
    uint16_t age_s;
    bool active;
} reservation_t;

/** All reservations of a port. */
typedef struct {
    reservation_t slots[RESERVATION_SLOTS];
    uint32_t limit_kbps;
} reservation_port_t;

/**
 * @brief Sum the bandwidth of the active reservations.
 * @param port Port to look at.
 * @return Reserved bandwidth.
 */
uint64_t reservation_used(const reservation_port_t *port) {
    uint64_t used = 0U;

    if (port != NULL) {
        for (uint8_t i = 0U; i < RESERVATION_SLOTS; i++) {
            if (port->slots[i].active) {
                used += port->slots[i].bandwidth_kbps;
            }
        }
    }
    return used;
}

/**
 * @brief Reserve bandwidth for a stream.
 * @param port Port of the stream.
 * @param stream_id Stream that asks.
 * @param bandwidth_kbps Bandwidth that it asks for.
 * @return True if the reservation is active.
 */
bool reservation_add(reservation_port_t *port, uint64_t stream_id, uint32_t bandwidth_kbps) {
    bool added = false;

    if ((port != NULL) && ((reservation_used(port) + bandwidth_kbps) <= port->limit_kbps)) {
        for (uint8_t i = 0U; (i < RESERVATION_SLOTS) && (!added); i++) {
            if (!port->slots[i].active) {
                port->slots[i].stream_id = stream_id;
                port->slots[i].bandwidth_kbps = bandwidth_kbps;
                port->slots[i].age_s = 0U;
                port->slots[i].active = true;
                added = true;
            }
        }
    }
    return added;
}

/**
 * @brief Let all reservations of a port grow older by one second.
 * @param port Port to update.
 */
void reservation_tick(reservation_port_t *port) {
    if (port != NULL) {
        for (uint8_t i = 0U; i < RESERVATION_SLOTS; i++) {
            reservation_t *const slot = &port->slots[i];
            if (slot->active && (slot->age_s < UINT16_MAX)) {
                slot->age_s++;
            }
        }
    }
}

/**
 * @brief Find the youngest reservation, the first to go when the link slows down.
 * @param port Port to look at.
 * @return Stream identifier, 0 if nothing is reserved.
 */
uint64_t reservation_youngest(const reservation_port_t *port) {
    uint64_t stream_id = 0U;

    if (port != NULL) {
        uint32_t youngest_age = (uint32_t)UINT16_MAX + 1U;
        for (uint8_t i = 0U; i < RESERVATION_SLOTS; i++) {
            if (port->slots[i].active && (port->slots[i].age_s < youngest_age)) {
                youngest_age = port->slots[i].age_s;
                stream_id = port->slots[i].stream_id;
            }
        }
    }
    return stream_id;
}

/**
 * @brief Drop the reservation of a stream.
 * @param port Port of the stream.
 * @param stream_id Stream to drop.
 * @return Bandwidth that became free.
 */
uint32_t reservation_drop(reservation_port_t *port, uint64_t stream_id) {
    uint32_t freed = 0U;

    if (port != NULL) {
        for (uint8_t i = 0U; i < RESERVATION_SLOTS; i++) {
            if (port->slots[i].active && (port->slots[i].stream_id == stream_id)) {
                port->slots[i].active = false;
                freed += port->slots[i].bandwidth_kbps;
            }
        }
    }
    return freed;
}
