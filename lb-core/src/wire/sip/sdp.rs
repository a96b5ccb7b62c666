//! A session description (RFC 8866) in the body of a SIP message: where media are to be sent to.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::part::{Part, Place};
use super::{after_line, is_end};

/// Streams that are looked at, as many as the kernel's helper does.
pub const MOST_MEDIA: usize = 3;

#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Who began it (`o=`).
    pub owner: Option<Address>,
    /// Of all media that name none themselves.
    pub connection: Option<Address>,
    pub media: ArrayVec<Media, MOST_MEDIA>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub place: Place,
    pub address: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Audio,
    Video,
    Image,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Media {
    pub kind: Kind,
    /// As it is written, which may be no port; not 0, with which a stream is refused.
    pub port: u32,
    pub port_place: Place,
    pub connection: Option<Address>,
}

impl Session {
    /// The one in a body that begins there, and may have other parts before it.
    pub fn read(message: &[u8], body: usize) -> Option<Session> {
        let mut lines = lines(message, body).skip_while(|line| line.behind("v=").is_none());
        lines.next()?;
        let mut session = Session::default();
        let mut section = Section::Session;
        for line in lines {
            if let Some(media) = line.behind("m=") {
                section = Section::Passed;
                if let Some(media) = read_media(media).filter(|_| !session.media.is_full()) {
                    session.media.push(media);
                    section = Section::Media;
                }
            } else if let Some(connection) = line.behind("c=").and_then(internet) {
                let of = match section {
                    Section::Session => Some(&mut session.connection),
                    Section::Media => session.media.last_mut().map(|media| &mut media.connection),
                    Section::Passed => None,
                };
                of.into_iter().for_each(|of| *of = of.or(Some(connection)));
            } else if let Some(owner) = line.behind("o=").filter(|_| section == Section::Session) {
                session.owner = session.owner.or(internet(owner));
            }
        }
        Some(session)
    }
}

/// What lines are about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Session,
    /// The last stream.
    Media,
    /// One that is not looked at.
    Passed,
}

/// Letters that stand for a line's kind are small ones, and nothing is continued.
fn lines(message: &[u8], body: usize) -> impl Iterator<Item = Part<'_>> {
    let mut at = body;
    std::iter::from_fn(move || {
        let rest = message.get(at..).filter(|rest| !rest.is_empty())?;
        let len = rest.iter().position(|&byte| is_end(byte)).unwrap_or(rest.len());
        let line = Part::of(message, at, at + len);
        at = message.len() - after_line(rest).len();
        Some(line)
    })
}

/// `audio 49170/2 RTP/AVP 0`
fn read_media(media: Part<'_>) -> Option<Media> {
    let (kind, rest) = media.split(b' ');
    let kind = match kind.text {
        b"audio" => Kind::Audio,
        b"video" => Kind::Video,
        b"image" => Kind::Image,
        _ => return None,
    };
    let (port, digits) = rest?.number().filter(|&(port, _)| port != 0)?;
    Some(Media { kind, port, port_place: rest?.begin(digits).place(), connection: None })
}

/// The address behind `IN IP4 ` or `IN IP6 `.
fn internet(line: Part<'_>) -> Option<Address> {
    let at = line.text.windows(7).position(|words| matches!(words, b"IN IP4 " | b"IN IP6 "))?;
    let is_ipv6 = line.text[at + 5] == b'6';
    let words = line.rest(at + 7);
    let (address, len) = words.address().filter(|(address, _)| address.is_ipv6() == is_ipv6)?;
    Some(Address { place: words.begin(len).place(), address })
}
