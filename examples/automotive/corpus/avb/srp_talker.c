/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file srp_talker.c
 * @brief Talker side of the stream reservation protocol.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Declaration that a talker makes. */
typedef enum {
    TALKER_SILENT = 0,
    TALKER_ADVERTISE,
    TALKER_FAILED
} talker_declaration_t;

/** One stream that this station offers. */
typedef struct {
    uint64_t stream_id;
    talker_declaration_t declaration;
    uint32_t latency_ns;
    uint8_t ready_listeners;
    bool streaming;
} srp_talker_t;

/**
 * @brief Start to advertise a stream.
 * @param talker Talker to start.
 * @param stream_id Stream to offer, not 0.
 * @param latency_ns Latency of the station itself.
 * @return True if the stream is advertised.
 */
bool talker_advertise(srp_talker_t *talker, uint64_t stream_id, uint32_t latency_ns) {
    bool advertised = false;

    if ((talker != NULL) && (stream_id != 0U)) {
        talker->stream_id = stream_id;
        talker->latency_ns = latency_ns;
        talker->declaration = TALKER_ADVERTISE;
        talker->ready_listeners = 0U;
        talker->streaming = false;
        advertised = true;
    }
    return advertised;
}

/**
 * @brief Take a listener's answer into account.
 * @param talker Talker of the stream.
 * @param ready True if the listener has joined, false if it has left.
 * @return True if the talker streams now.
 */
bool talker_listener_changed(srp_talker_t *talker, bool ready) {
    bool streaming = false;

    if (talker != NULL) {
        if (ready && (talker->ready_listeners < UINT8_MAX)) {
            talker->ready_listeners++;
        } else if ((!ready) && (talker->ready_listeners > 0U)) {
            talker->ready_listeners--;
        } else {
            /* The count stays at its limit. */
        }
        talker->streaming = (talker->ready_listeners > 0U) && (talker->declaration == TALKER_ADVERTISE);
        streaming = talker->streaming;
    }
    return streaming;
}

/**
 * @brief Turn an advertisement into a failure at a bridge.
 * @param talker Talker attribute to forward.
 * @param bandwidth_ok Whether the next port has bandwidth left.
 * @param hop_latency_ns Latency that the bridge adds.
 * @return Declaration to forward.
 */
talker_declaration_t talker_forward(srp_talker_t *talker, bool bandwidth_ok, uint32_t hop_latency_ns) {
    talker_declaration_t declaration = TALKER_SILENT;

    if (talker != NULL) {
        talker->latency_ns += hop_latency_ns;
        if ((talker->declaration == TALKER_ADVERTISE) && (!bandwidth_ok)) {
            talker->declaration = TALKER_FAILED;
        }
        declaration = talker->declaration;
    }
    return declaration;
}

/**
 * @brief Choose the more important of two talkers.
 * @param first_rank Rank of one stream; a lower rank is more important.
 * @param first_age Seconds that its reservation has stood.
 * @param second_rank Rank of the other stream.
 * @param second_age Seconds that its reservation has stood.
 * @return True if the first one keeps its bandwidth.
 */
bool talker_outranks(uint8_t first_rank, uint32_t first_age, uint8_t second_rank, uint32_t second_age) {
    bool outranks = (first_age >= second_age);

    if (first_rank != second_rank) {
        outranks = (first_rank < second_rank);
    }
    return outranks;
}
