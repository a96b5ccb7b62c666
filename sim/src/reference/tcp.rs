//! TCP as the kernel's IPVS sees it: packets, not sockets. The states, and how long a connection may rest in each.

use lb_core::ipvs::state::TcpState::{self, *};
use lb_core::tables::Settings;
use lb_core::time::Timeout;

use super::parse::{ACK, FIN, RST, SYN};

/// What a segment means. Of several flags RST counts before SYN, SYN before FIN, FIN before ACK.
#[derive(Clone, Copy)]
enum Event {
    Rst,
    Syn,
    Fin,
    Ack,
    Nothing,
}

fn event(flags: u8) -> Event {
    match flags {
        flags if flags & RST != 0 => Event::Rst,
        flags if flags & SYN != 0 => Event::Syn,
        flags if flags & FIN != 0 => Event::Fin,
        flags if flags & ACK != 0 => Event::Ack,
        _ => Event::Nothing,
    }
}

/// The state after a segment from the client, or from the real server.
pub(super) fn next(state: TcpState, is_from_client: bool, flags: u8) -> TcpState {
    if is_from_client {
        match (event(flags), state) {
            (Event::Nothing, _) => Close,
            (Event::Rst, SynRecv | SynAck) => SynRecv,
            (Event::Rst, LastAck | Listen) => state,
            (Event::Rst, _) => Close,
            (Event::Syn, Established | SynSent) => Established,
            (Event::Syn, _) => SynRecv,
            (Event::Fin, None) => Close,
            (Event::Fin, Established) => CloseWait,
            (Event::Fin, SynRecv | SynAck | FinWait) => TimeWait,
            (Event::Ack, None | SynRecv | SynAck) => Established,
            (Event::Ack, LastAck) => Close,
            (Event::Fin | Event::Ack, _) => state,
        }
    } else {
        match (event(flags), state) {
            (Event::Nothing, _) => Close,
            (Event::Rst, SynSent | TimeWait) => state,
            (Event::Rst, _) => Close,
            (Event::Syn, Established | Listen) => state,
            (Event::Syn, SynRecv | SynAck) => SynRecv,
            (Event::Syn, _) => SynSent,
            (Event::Fin, Established) => FinWait,
            (Event::Fin, None | SynRecv | SynAck | CloseWait) => TimeWait,
            (Event::Ack, None | SynRecv | SynAck | Listen) => Established,
            (Event::Fin | Event::Ack, _) => state,
        }
    }
}

/// The state after a segment from the client of a connection whose answers are not seen.
pub(super) fn next_unanswered(state: TcpState, flags: u8) -> TcpState {
    match (event(flags), state) {
        // What the client's FIN means is as if the server had sent it.
        (Event::Fin, Established) => FinWait,
        (Event::Fin, FinWait) => FinWait,
        (Event::Rst, SynAck) => Close,
        _ => next(state, true, flags),
    }
}

/// The same of all three while `secure_tcp` is on.
pub(super) fn next_securely(state: TcpState, sender: Sender, flags: u8) -> TcpState {
    match (sender, event(flags), state) {
        (Sender::Client, Event::Ack, SynRecv) => SynRecv,
        (Sender::Client, Event::Syn | Event::Fin | Event::Ack, SynAck) => SynAck,
        (Sender::Client | Sender::LoneClient, Event::Rst, SynAck) => Close,
        (Sender::Server, Event::Syn, SynRecv | SynAck) => SynAck,
        (Sender::LoneClient, Event::Syn, Established | SynSent | SynRecv) => next_unanswered(state, flags),
        (Sender::LoneClient, Event::Syn, _) => SynAck,
        (Sender::LoneClient, ..) => next_unanswered(state, flags),
        _ => next(state, sender == Sender::Client, flags),
    }
}

/// Who sent a segment, and whether the other side is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
    LoneClient,
}

/// Being set up, or established.
pub(super) fn is_active(state: TcpState) -> bool {
    matches!(state, Established | SynSent | SynRecv | SynAck)
}

pub(super) fn timeout(state: TcpState, settings: &Settings) -> Timeout {
    Timeout::from_secs(match state {
        Established => return settings.tcp,
        FinWait => return settings.tcp_fin,
        None => 2,
        Close => 10,
        LastAck => 30,
        SynRecv | CloseWait => 60,
        SynSent | SynAck | TimeWait | Listen => 120,
    })
}
