//! What stands in packets' data and is read there: any bytes are QUIC, SIP or FTP, or are not. What is found is in them, and what it is used
//! for goes well.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use lb_core::ids::ServerId;
use lb_core::ipvs::quic_lb::{Config, Fallback, Key, QuicLb, QuicServerId};
use lb_core::wire::ftp::{self, Said};
use lb_core::wire::ftp_families::{self, Asked, Line};
use lb_core::wire::sip::message::{End, Message};
use lb_core::wire::sip::sdp::Session;
use lb_core::wire::{quic, sip};

/// By config ID: bytes of server ID and nonce, and whether they are enciphered: not, in one pass, in four, with a short server ID.
const CONFIGS: [(u32, u32, bool); 4] = [(1, 4, false), (4, 12, true), (3, 6, true), (2, 9, true)];
const KEY: &str = "8f95f09245765f80256934e50c66207f";

/// Two servers, of which each has an ID of each length: its number in every byte.
static SERVERS: LazyLock<QuicLb> = LazyLock::new(|| {
    let mut quic = QuicLb::default();
    let configs = (0..).zip(CONFIGS).map(|(id, (id_len, nonce_len, is_enciphered))| {
        let key = is_enciphered.then(|| Key::parse(KEY).expect("32 digits"));
        Config::new(id, id_len, nonce_len, key).expect("within all bounds")
    });
    quic.set_configs(configs.collect()).expect("each has an ID of its own");
    for server in [1, 2] {
        let ids = CONFIGS.map(|(len, ..)| QuicServerId::parse(&format!("{server:02x}").repeat(len as usize)));
        quic.set_ids(ServerId(server), ids.map(|id| id.expect("short enough")).to_vec());
    }
    quic
});

pub(crate) fn run(data: &[u8]) {
    quic(data);
    sip(data);
    ftp(data);
}

fn quic(datagram: &[u8]) {
    let [some, all] = [false, true].map(|by_all| SERVERS.route(datagram, by_all));
    let header = quic::Header::of(datagram);
    assert_eq!(header.is_none(), all == Err(Fallback::NotQuic));
    let Some(header) = header else { return };
    assert_eq!(some == Err(Fallback::MadeUp), header.may_be_made_up);
    assert!(header.may_be_made_up || some == all, "what is not made up is believed");
    let is_long = datagram[0] & 0x80 != 0;
    let at = if is_long { 6 } else { 1 };
    assert_eq!(header.destination, &datagram[at..at + header.destination.len()]);
    assert!(is_long || at + header.destination.len() == datagram.len());
    if let (Ok(ServerId(server)), Some(&first)) = (all, header.destination.first()) {
        let (id_len, nonce_len, is_enciphered) = CONFIGS[usize::from(first >> 5)];
        let (id_len, len) = (id_len as usize, (id_len + nonce_len) as usize);
        assert!(header.destination.len() > len, "it has room for a server ID and a nonce");
        let is_there = header.destination[1..=id_len].iter().all(|&byte| u32::from(byte) == server);
        assert!(is_enciphered || is_there, "server {server} is named by {:02x?}", header.destination);
        // What follows says nothing.
        let cut = &datagram[..at + 1 + len];
        assert!(is_long || SERVERS.route(cut, true) == all);
    }
}

fn sip(message: &[u8]) {
    if let Some(read) = Message::read(message) {
        assert!(read.body <= message.len());
        let ends = read.contacts.iter().map(|contact| contact.end).chain(read.via.map(|via| via.end));
        for End { place, address, port } in ends.chain(read.uri).chain(read.from).chain(read.to) {
            assert!(place.at + place.len <= message.len());
            // As it would be written in its place, it is read again.
            let line = [b"BYE sip:", &sip::words_of_end(address, port)[..], b" SIP/2.0\r\n\r\n"].concat();
            let again = Message::read(&line).and_then(|again| again.uri).expect("an end");
            assert_eq!((again.address, again.port), (address, port));
        }
        if let Some(session) = Session::read(message, read.body) {
            let places = session.media.iter().map(|media| media.port_place);
            for place in places.chain(session.connection.map(|connection| connection.place)) {
                assert!(place.at >= read.body && place.at + place.len <= message.len());
            }
        }
    }
    let Some(call) = sip::call_id(message) else { return };
    assert!((1..=255).contains(&call.len()));
    assert!(call.iter().all(|byte| byte.is_ascii_graphic()), "no blank, no end of a line: {call:?}");
    let at = call.as_ptr() as usize - message.as_ptr() as usize;
    assert_eq!(&message[at..at + call.len()], call, "it stands there");
    // The first one counts, whatever follows.
    let mut longer = message.to_vec();
    longer.extend(b"\r\nCall-ID: another\r\n\r\n");
    assert_eq!(sip::call_id(&longer), Some(call));
}

fn ftp(data: &[u8]) {
    for (_, line) in ftp::lines(data) {
        let clients = [false, true].map(|is_ipv6| ftp_families::client(line, is_ipv6));
        let servers = (0..16u8)
            .map(|n| ftp_families::server(line, n & 8 != 0, Asked::of_bits(n & 7)))
            .filter(|heard| heard.instead.is_some());
        for heard in clients.into_iter().chain(servers) {
            // An end stands in some words of the other family alone.
            let end = if matches!(heard.instead, Some(Line::Eprt)) {
                IpAddr::from(Ipv6Addr::LOCALHOST)
            } else {
                IpAddr::from([203, 0, 113, 255])
            };
            let words = heard.instead.map(|line| line.words((end, 0x8001)));
            assert!(words.is_none_or(|words| (4..=56).contains(&words.len())));
        }
    }
    type Reader = fn(&[u8]) -> Option<Said>;
    const READERS: [Reader; 2] = [ftp::passive, ftp::active];
    for reader in READERS {
        let Some(said) = reader(data) else { continue };
        let (at, len) = said.place;
        assert_eq!(ftp::again(&data[at..at + len]), Some(Said { place: (0, len), ..said }));
        // Another address and port in their place are read again.
        let port = (said.port ^ 0x8001).max(1);
        let address = match said.address {
            Some(IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
            _ => IpAddr::from([203, 0, 113, 255]),
        };
        let words = ftp::words(said.form, address, port);
        let edited = [&data[..at], &words, &data[at + len..]].concat();
        let must = Said { address: said.address.map(|_| address), port, place: (at, words.len()), ..said };
        let found = reader(&edited);
        // A line that becomes longer may be too long.
        assert!(found == Some(must) || edited.len() > data.len(), "{found:?} instead of {must:?}");
    }
}
