/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file srp_listener.c
 * @brief Listener side of the stream reservation protocol.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Declaration that a listener makes. */
typedef enum {
    LISTENER_IGNORE = 0,
    LISTENER_ASKING_FAILED,
    LISTENER_READY,
    LISTENER_READY_FAILED
} listener_declaration_t;

/** One stream that this station wants. */
typedef struct {
    uint64_t stream_id;
    listener_declaration_t declaration;
    uint32_t timeout_ms;
    bool vlan_joined;
} srp_listener_t;

/**
 * @brief Answer the declaration of a talker.
 * @param listener Listener of the stream.
 * @param stream_id Stream that the talker declares.
 * @param talker_failed True if the reservation failed on the way.
 * @return Declaration of the listener.
 */
listener_declaration_t listener_answer(srp_listener_t *listener, uint64_t stream_id, bool talker_failed) {
    listener_declaration_t answer = LISTENER_IGNORE;

    if ((listener != NULL) && (listener->stream_id == stream_id) && listener->vlan_joined) {
        answer = talker_failed ? LISTENER_ASKING_FAILED : LISTENER_READY;
        listener->declaration = answer;
        listener->timeout_ms = 0U;
    }
    return answer;
}

/**
 * @brief Merge the declarations of two listeners at a bridge.
 * @param first Declaration of one port.
 * @param second Declaration of another port.
 * @return Declaration towards the talker.
 */
listener_declaration_t listener_merge(listener_declaration_t first, listener_declaration_t second) {
    listener_declaration_t merged = LISTENER_READY_FAILED;

    if (first == LISTENER_IGNORE) {
        merged = second;
    } else if ((second == LISTENER_IGNORE) || (first == second)) {
        merged = first;
    } else {
        merged = LISTENER_READY_FAILED;
    }
    return merged;
}

/**
 * @brief Let time pass without a declaration of the talker.
 * @param listener Listener of the stream.
 * @param elapsed_ms Time since the last call.
 * @param limit_ms Time after which the talker counts as gone.
 * @return True if the listener has given the stream up.
 */
bool listener_expire(srp_listener_t *listener, uint32_t elapsed_ms, uint32_t limit_ms) {
    bool expired = false;

    if (listener != NULL) {
        const uint32_t left = UINT32_MAX - listener->timeout_ms;
        listener->timeout_ms += (elapsed_ms < left) ? elapsed_ms : left;
        if (listener->timeout_ms >= limit_ms) {
            listener->declaration = LISTENER_IGNORE;
            expired = true;
        }
    }
    return expired;
}
