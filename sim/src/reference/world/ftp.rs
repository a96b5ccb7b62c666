//! Clients and servers that speak FTP: lines of control connections, which answer each other most often, come again, and cut elsewhere; and data
//! connections to where the other end was told that somebody waits.

use std::net::IpAddr;

use lb_core::ids::PortId;
use lb_core::packet::Frame;
use lb_dataplane::Logic;

use super::super::ftp_words::{Waits, client_waits, lines, server_waits};
use super::super::parse::{self, ACK, FIN, Piece, Read, SYN, TCP, word};
use super::World;
use super::frames::{Recipe, segment, tcp};

/// Packets with lines that are kept to come again.
const KEPT: usize = 12;

impl<L: Logic<Frame>> World<L> {
    /// A control connection begins or goes on, or one of data begins.
    pub(super) fn speak_ftp(&mut self) {
        let mut next = match self.rng.below(4) {
            0 => Some(self.syn()),
            1 => self.data_syn(),
            _ => self.next_line(),
        };
        for _ in 0..self.rng.of(&[2, 6, 10]) {
            let Some((port, frame)) = next else { return };
            self.bring(port, &frame);
            next = match self.rng.below(8) {
                0 => self.data_syn(),
                1 => self.said_again().map(|(port, recipe)| (port, recipe.build())),
                _ => self.next_line(),
            };
        }
    }

    /// What the other end says to the segment that left last, or to one before.
    fn next_line(&mut self) -> Option<(PortId, Vec<u8>)> {
        let from_last = if self.rng.one_in(4) { self.rng.below(self.left.len().max(1)) } else { 0 };
        let (port, frame) = self.left.iter().rev().nth(from_last).cloned()?;
        let read = parse::read(&frame).ok().flatten()?;
        if read.protocol != TCP || read.piece != Piece::Whole {
            return None;
        }
        let header_len = usize::from(frame[read.l4 + 12] >> 4) * 4;
        let heard = frame.get(read.l4 + header_len..read.end)?.to_vec();
        // A real server's port is the one where it hears.
        let is_server = port == PortId(1);
        let line = match (is_server, read.tcp_flags & (SYN | ACK)) {
            (_, SYN) => Vec::new(),
            (false, _) if self.rng.one_in(4) => Vec::new(),
            (true, _) => self.answer_of_server(&heard, read.dst),
            (false, _) => self.command(read.dst),
        };
        let number = |at| u32::from(word(&frame, at)) << 16 | u32::from(word(&frame, at + 2));
        let ends = [SYN, FIN].map(|flag| u32::from(read.tcp_flags & flag != 0));
        let ack = number(read.l4 + 4).wrapping_add(heard.len() as u32 + ends[0] + ends[1]);
        let is_begun = read.tcp_flags & ACK != 0;
        let seq = if is_begun { number(read.l4 + 8) } else { self.rng.of(&[1000, u32::MAX, u32::MAX - 40]) };
        let flags = if read.tcp_flags & (SYN | ACK) == SYN { SYN | ACK } else { ACK };
        let bytes = tcp((read.dport, read.sport), (seq, ack), flags, &[], &line);
        let recipe = self.recipe(port, read.dst, read.src, TCP, bytes);
        if !line.is_empty() {
            self.keep(port, recipe.clone());
        }
        Some((port, recipe.build()))
    }

    fn keep(&mut self, port: PortId, recipe: Recipe) {
        if self.said.len() == KEPT {
            self.said.pop_front();
        }
        self.said.push_back((port, recipe));
    }

    /// Lines that came before; or a part of them, or they and more.
    pub(super) fn said_again(&mut self) -> Option<(PortId, Recipe)> {
        if self.said.is_empty() {
            return None;
        }
        let which = self.rng.below(self.said.len());
        let (port, mut recipe) = self.said[which].clone();
        let cut = self.rng.below(recipe.segment.len().saturating_sub(20).max(1));
        let more = self.line_of_anybody();
        match self.rng.below(6) {
            0 => recipe.segment.truncate(20 + cut),
            1 => {
                let seq = u32::from_be_bytes(*recipe.segment[4..].first_chunk().expect("a header"));
                recipe.segment.drain(20..20 + cut);
                recipe.segment[4..8].copy_from_slice(&seq.wrapping_add(cut as u32).to_be_bytes());
            }
            2 => recipe.segment.extend(more),
            3 => {
                let len = recipe.segment.len();
                recipe.segment.truncate(20);
                recipe.segment.extend(more);
                recipe.segment.truncate(len);
            }
            _ => {}
        }
        recipe.segment = segment(TCP, (recipe.src, recipe.dst), recipe.segment);
        Some((port, recipe))
    }

    /// The first packet of a connection to where the other end was told to come, from the port that it comes from.
    fn data_syn(&mut self) -> Option<(PortId, Vec<u8>)> {
        let told: Vec<_> = self.left.iter().filter_map(told).collect();
        if told.is_empty() {
            return None;
        }
        let (port, read, (address, to)) = self.rng.of(&told);
        let own = match port {
            PortId(1) => read.dport.wrapping_sub(u16::from(!self.rng.one_in(8))),
            _ => 4000 + self.rng.below(25) as u16,
        };
        if address.is_ipv6() != read.dst.is_ipv6() {
            return None;
        }
        let bytes = tcp((own, to), (1, 0), SYN, &[], &[]);
        Some((port, self.recipe(port, read.dst, address, TCP, bytes).build()))
    }

    fn wait_at(&mut self) -> u16 {
        self.rng.of(&[50_000, 50_001, 50_002, 50_003, 5000, 1024, 1023, 21, 80])
    }

    /// Any line, of a client that is anybody.
    pub(super) fn line_of_anybody(&mut self) -> Vec<u8> {
        let who = self.rng.of(&["192.0.2.100", "2001:db8::100", "10.0.0.11", "fd00::12", "198.51.100.5"]);
        let who = super::ip(who);
        if self.rng.one_in(2) { self.command(who) } else { self.answer_of_server(b"PASV\r\n", who) }
    }

    fn command(&mut self, own: IpAddr) -> Vec<u8> {
        let other = super::ip(self.rng.of(&["192.0.2.77", "2001:db8::77"]));
        let who = if self.rng.one_in(8) { other } else { own };
        let port = self.wait_at();
        let family = if who.is_ipv6() != self.rng.one_in(12) { 2 } else { 1 };
        let in_numbers = |who: IpAddr| match who {
            IpAddr::V4(who) => format!("{},{},{}", who.to_string().replace('.', ","), port / 256, port % 256),
            IpAddr::V6(_) => format!("192,0,2,100,{},{}", port / 256, port % 256),
        };
        let between = self.rng.of(&['|', '|', '!', 'a']);
        let line = match self.rng.below(16) {
            0 | 1 if own.is_ipv4() => "PASV".to_owned(),
            0..4 => "EPSV".to_owned(),
            4 => format!("EPSV {}", self.rng.of(&["1", "2", "ALL", "all", "3", ""])),
            5..8 if own.is_ipv4() => {
                format!("{}{}", self.rng.of(&["PORT ", "port ", "Port  "]), in_numbers(who))
            }
            5..11 => format!("EPRT {between}{family}{between}{who}{between}{port}{between}"),
            11 => self.rng.of(&["AUTH TLS", "NOOP", "USER x", "LIST -a"]).to_owned(),
            12 => format!("PORT {}", in_numbers(who)),
            13 => "PASV".to_owned(),
            14 => "LIST".to_owned(),
            _ => "EPRT |7|x|1|".to_owned(),
        };
        self.as_lines(line)
    }

    fn answer_of_server(&mut self, heard: &[u8], own: IpAddr) -> Vec<u8> {
        let port = self.wait_at();
        let [high, low] = port.to_be_bytes();
        let own = match own {
            IpAddr::V4(own) if !self.rng.one_in(8) => own.to_string().replace('.', ","),
            _ => "127,0,0,1".to_owned(),
        };
        let passive =
            format!("227 {}({own},{high},{low}).", self.rng.of(&["Entering Passive Mode ", "", "= 1,2 "]));
        let extended = format!("229 Entering Extended Passive Mode (|||{port}|)");
        let verb: String = heard.iter().take(4).map(|&byte| char::from(byte).to_ascii_uppercase()).collect();
        let line = match (self.rng.below(8), verb.as_str()) {
            (0, _) => self.rng.of(&["425 No", "530 Please login", "200 ok", "234 Go on"]).to_owned(),
            (1, _) | (_, "PASV") => passive,
            (2, _) | (_, "EPSV") => extended,
            (_, "AUTH") => "234 Go on".to_owned(),
            _ => "200 ok".to_owned(),
        };
        self.as_lines(line)
    }

    /// With its end, most often; and now and then between others.
    fn as_lines(&mut self, line: String) -> Vec<u8> {
        let end = self.rng.of(&["\r\n", "\r\n", "\r\n", "\r\n", "\n", ""]);
        let before = self.rng.of(&["", "", "", "", "", "220-Welcome\r\n", "NOOP\r\n"]);
        let behind = self.rng.of(&["", "", "", "", "", "PASV\r\n", "x"]);
        [before, &line, end, behind].concat().into_bytes()
    }
}

/// A packet that left and says that somebody waits: by which port the other end is, its packet, and where it is to come to.
fn told((port, frame): &(PortId, Vec<u8>)) -> Option<(PortId, Read, (IpAddr, u16))> {
    let read = parse::read(frame).ok().flatten()?;
    if read.protocol != TCP || read.piece != Piece::Whole {
        return None;
    }
    let header_len = usize::from(frame[read.l4 + 12] >> 4) * 4;
    let data = frame.get(read.l4 + header_len..read.end)?;
    let is_server = *port == PortId(1);
    let waits = lines(data).into_iter().find_map(|(_, line)| match is_server {
        true => client_waits(&line),
        false => server_waits(&line),
    });
    let Waits { address, port: to, .. } = waits?;
    Some((*port, read, (address.unwrap_or(read.src), to)))
}
