//! SCTP as the kernel's IPVS sees it: the chunk that counts of each packet, state by state.

use lb_core::ipvs::sctp::SctpState::{self, *};
use lb_core::time::Timeout;

use super::parse::{ABORT, COOKIE_ACK, COOKIE_ECHO, INIT};

const INIT_ACK: u8 = 2;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The state after a chunk from the client of a connection whose answers come by here.
pub(super) fn after_client(state: SctpState, chunk: u8) -> SctpState {
    match (state, chunk) {
        (CookieWait, ABORT) => Rejected,
        (_, ABORT) => Closed,
        (None, INIT) => Init1,
        (None, INIT_ACK) => CookieWait,
        (None, COOKIE_ECHO) => CookieReplied,
        (None, SHUTDOWN) => ShutdownReceived,
        (None, SHUTDOWN_ACK | SHUTDOWN_COMPLETE | ERROR) => Closed,
        (None, _) => Established,
        (Init1, INIT | COOKIE_ECHO | SHUTDOWN_ACK) => Init,
        (Init1 | Init, INIT_ACK) => CookieWait,
        (Init1 | Init, SHUTDOWN_COMPLETE) => Closed,
        (CookieSent, COOKIE_ECHO) => CookieReplied,
        (CookieWait, INIT_ACK) => Cookie,
        (CookieEchoed, COOKIE_ACK) => Established,
        (CookieEchoed, ERROR) => Closed,
        (Established, SHUTDOWN) => ShutdownReceived,
        (ShutdownSent | ShutdownAckSent, SHUTDOWN_ACK) => Closed,
        (ShutdownAckSent, SHUTDOWN_COMPLETE) => Closed,
        (Rejected | Closed, INIT) => Init,
        _ => state,
    }
}

/// The state after one from the real server.
pub(super) fn after_server(state: SctpState, chunk: u8) -> SctpState {
    let is_before_cookie_wait = matches!(state, None | Init1 | Init | CookieSent | CookieReplied);
    match (state, chunk) {
        (Init1, ABORT) => Rejected,
        (_, ABORT) => Closed,
        (None, SHUTDOWN_COMPLETE) => Closed,
        (None | Init1 | Init, INIT_ACK) => CookieSent,
        (Established, SHUTDOWN) => ShutdownSent,
        (Established, _) => Established,
        (_, INIT) => CookieWait,
        (ShutdownSent | ShutdownReceived, SHUTDOWN_ACK) => ShutdownAckSent,
        (ShutdownSent | ShutdownReceived | ShutdownAckSent | Rejected | Closed, _) => state,
        // It is not established yet.
        (CookieEchoed, COOKIE_ECHO) => CookieEchoed,
        (_, COOKIE_ECHO) => CookieEchoed,
        (_, COOKIE_ACK) => Established,
        (_, SHUTDOWN) => ShutdownSent,
        (_, SHUTDOWN_ACK) if is_before_cookie_wait => ShutdownAckSent,
        (_, ERROR) if is_before_cookie_wait => Closed,
        (None, chunk) if chunk != INIT_ACK => Established,
        _ => state,
    }
}

/// The state after one from the client of a connection whose answers are not seen.
pub(super) fn after_client_alone(state: SctpState, chunk: u8) -> SctpState {
    match (state, chunk) {
        (CookieSent | CookieReplied | CookieWait, INIT) => Init,
        (None | Init1 | Init | CookieSent | CookieReplied | CookieWait, INIT_ACK) => CookieEchoed,
        (None | Init1 | Init | CookieSent | CookieReplied | CookieWait, COOKIE_ECHO) => Established,
        (CookieSent | CookieReplied | Cookie, COOKIE_ACK) => Established,
        (CookieSent | CookieReplied | ShutdownReceived, SHUTDOWN_COMPLETE) => Closed,
        (Established, SHUTDOWN_ACK) => Closed,
        // What is seen of the client alone does not end the handshake that the server began.
        (CookieEchoed, ERROR) => CookieEchoed,
        (CookieWait, chunk) if is_data(chunk) => Established,
        _ => after_client(state, chunk),
    }
}

fn is_data(chunk: u8) -> bool {
    ![INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE]
        .contains(&chunk)
}

pub(super) fn timeout(state: SctpState) -> Timeout {
    Timeout::from_secs(match state {
        None => 2,
        Init1 | Rejected => 4,
        Init | CookieSent | CookieReplied | CookieWait | Cookie | CookieEchoed => 61,
        Established => 900,
        ShutdownSent | ShutdownReceived | ShutdownAckSent | Closed => 61,
    })
}

#[cfg(test)]
mod tests {
    use lb_core::ipvs::state::Direction;

    use super::*;

    #[test]
    fn both_say_the_same_of_every_state_and_chunk() {
        for state in SctpState::ALL {
            for chunk in 0..=255 {
                let ours = |direction| state.next(direction, chunk);
                let name = state.name();
                assert_eq!(after_client(state, chunk), ours(Direction::Input), "{name}, client, {chunk}");
                assert_eq!(after_server(state, chunk), ours(Direction::Output), "{name}, server, {chunk}");
                assert_eq!(
                    after_client_alone(state, chunk),
                    ours(Direction::InputOnly),
                    "{name}, alone, {chunk}"
                );
            }
            assert_eq!(timeout(state), state.timeout());
        }
    }
}
