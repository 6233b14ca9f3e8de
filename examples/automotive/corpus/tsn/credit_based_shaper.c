/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file credit_based_shaper.c
 * @brief Credit-based shaper of one traffic class (IEEE 802.1Qav).
 *
 * Credits are in bits, slopes in bits per microsecond.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** State and parameters of one shaper. */
typedef struct {
    int32_t credit;
    int32_t idle_slope;
    int32_t send_slope;
    int32_t hi_credit;
    int32_t lo_credit;
    bool queue_waiting;
} qav_shaper_t;

static int32_t clamp_credit(const qav_shaper_t *shaper, int64_t credit) {
    int64_t clamped = credit;

    if (clamped > shaper->hi_credit) {
        clamped = shaper->hi_credit;
    }
    if (clamped < shaper->lo_credit) {
        clamped = shaper->lo_credit;
    }
    return (int32_t)clamped;
}

/**
 * @brief Set a shaper up for a port and a share of it.
 * @param shaper Shaper to set up.
 * @param port_rate Port rate in bits per microsecond.
 * @param idle_slope Reserved rate in bits per microsecond.
 * @param max_frame_bits Longest frame of this class.
 * @param max_interference_bits Longest frame of any other class.
 * @return True if the parameters are usable.
 */
bool qav_shaper_init(qav_shaper_t *shaper, int32_t port_rate, int32_t idle_slope, int32_t max_frame_bits,
                     int32_t max_interference_bits) {
    bool usable = false;

    if ((shaper != NULL) && (idle_slope > 0) && (idle_slope < port_rate)) {
        const int64_t send_slope = (int64_t)idle_slope - port_rate;
        shaper->credit = 0;
        shaper->idle_slope = idle_slope;
        shaper->send_slope = (int32_t)send_slope;
        shaper->hi_credit = (int32_t)(((int64_t)max_interference_bits * idle_slope) / port_rate);
        shaper->lo_credit = (int32_t)(((int64_t)max_frame_bits * send_slope) / port_rate);
        shaper->queue_waiting = false;
        usable = true;
    }
    return usable;
}

/**
 * @brief Let credit grow while the class waits or recovers.
 * @param shaper Shaper of the class.
 * @param elapsed_us Time since the last update.
 */
void qav_shaper_idle(qav_shaper_t *shaper, uint32_t elapsed_us) {
    if (shaper != NULL) {
        const int64_t gained = (int64_t)shaper->idle_slope * elapsed_us;
        int64_t credit = shaper->credit + gained;
        if ((!shaper->queue_waiting) && (credit > 0)) {
            credit = 0;
        }
        shaper->credit = clamp_credit(shaper, credit);
    }
}

/**
 * @brief Take credit away for the time a frame was on the wire.
 * @param shaper Shaper of the class.
 * @param elapsed_us Transmission time of the frame.
 */
void qav_shaper_sent(qav_shaper_t *shaper, uint32_t elapsed_us) {
    if (shaper != NULL) {
        const int64_t spent = (int64_t)shaper->send_slope * elapsed_us;
        shaper->credit = clamp_credit(shaper, shaper->credit + spent);
    }
}

/**
 * @brief Decide whether the next frame of the class may start.
 * @param shaper Shaper of the class.
 * @param gate_open State of the gate of the class.
 * @return True if a frame waits, the gate is open and credit is not negative.
 */
bool qav_shaper_may_send(const qav_shaper_t *shaper, bool gate_open) {
    bool may_send = false;

    if (shaper != NULL) {
        const bool enough_credit = (shaper->credit >= 0);
        may_send = shaper->queue_waiting && gate_open && enough_credit;
    }
    return may_send;
}
