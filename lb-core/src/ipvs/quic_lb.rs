//! QUIC-LB: which real server a QUIC connection ID names, so that a connection stays with its real server when its client's address
//! changes (draft-ietf-quic-load-balancers-21).
//!
//! A server that was told its *server ID* writes it into each connection ID that it gives out, behind a byte whose first three bits
//! name the configuration:
//!
//! ```text
//! config ID (3 bits) | length, or anything (5) | server ID, nonce: enciphered if there is a key | anything
//! ```
//!
//! Asked for the first packet of a connection of a UDP service alone: its later ones go where the first one went (§6). Nothing here
//! remembers anything, so that each worker, and each director, finds the same server.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use arrayvec::ArrayVec;
use hashbrown::HashMap;

use crate::ids::ServerId;
use crate::wire::quic::Header;

/// Configurations of a service: codepoint 7 says that a connection ID names no server (§3.2).
pub const CONFIGS: usize = 7;
/// Bytes of a server ID.
pub const ID_LEN: std::ops::RangeInclusive<u8> = 1..=15;
/// Bytes of a nonce.
pub const NONCE_LEN: std::ops::RangeInclusive<u8> = 4..=18;
/// Bytes of both together: a connection ID of version 1 has 20 (§5.3).
pub const MAX_LEN: u8 = 19;
/// Server IDs of one real server: while configurations are exchanged it needs one of each length.
pub const MAX_IDS: usize = 8;

const BLOCK: usize = 16;
/// Bytes of the longer half of what is enciphered.
const MAX_HALF: usize = MAX_LEN.div_ceil(2) as usize;

/// What a server writes into its connection IDs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuicServerId(ArrayVec<u8, { *ID_LEN.end() as usize }>);

impl QuicServerId {
    /// Two hexadecimal digits a byte. `None`: it is not, or not 1 to 15 bytes long.
    pub fn parse(text: &str) -> Option<QuicServerId> {
        let id: ArrayVec<u8, _> = from_hex(text)?;
        (!id.is_empty()).then_some(QuicServerId(id))
    }

    pub fn len(&self) -> u8 {
        self.0.len() as u8
    }

    /// No server ID is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Borrow<[u8]> for QuicServerId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for QuicServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for QuicServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the operator keeps from those who watch connection IDs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; BLOCK]);

impl Key {
    /// 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Key> {
        from_hex::<BLOCK>(text)?.into_inner().ok().map(Key)
    }

    /// The opposite of [`Key::parse`]: to be shown to those alone who ask for it.
    pub fn reveal(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

fn from_hex<const MOST: usize>(text: &str) -> Option<ArrayVec<u8, MOST>> {
    let mut bytes = ArrayVec::new();
    for pair in text.as_bytes().chunks(2) {
        let [high, low] = pair else { return None };
        let digit = |letter: u8| char::from(letter).to_digit(16);
        bytes.try_push((digit(*high)? << 4 | digit(*low)?) as u8).ok()?;
    }
    Some(bytes)
}

/// How a service's servers write their IDs, one of up to seven ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    id: u8,
    id_len: u8,
    nonce_len: u8,
    key: Option<Key>,
}

/// Why there is no such configuration, in the names of the config file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadConfig {
    Id(u32),
    IdLen(u32),
    NonceLen(u32),
    Sum(u32),
    Twice(u8),
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |range: std::ops::RangeInclusive<u8>| format!("{}..={}", range.start(), range.end());
        match self {
            BadConfig::Id(id) => write!(f, "config_id {id} is outside 0..={}", CONFIGS - 1),
            BadConfig::IdLen(len) => write!(f, "server_id_length {len} is outside {}", range(ID_LEN)),
            BadConfig::NonceLen(len) => write!(f, "nonce_length {len} is outside {}", range(NONCE_LEN)),
            BadConfig::Sum(sum) => {
                write!(f, "server_id_length and nonce_length are {sum} bytes together, more than {MAX_LEN}")
            }
            BadConfig::Twice(id) => write!(f, "config_id {id} stands twice"),
        }
    }
}

impl Config {
    /// # Errors
    /// What is outside its range.
    pub fn new(id: u32, id_len: u32, nonce_len: u32, key: Option<Key>) -> Result<Config, BadConfig> {
        let within = |value: u32, range: std::ops::RangeInclusive<u8>| {
            u8::try_from(value).ok().filter(|value| range.contains(value))
        };
        let config = Config {
            id: within(id, 0..=CONFIGS as u8 - 1).ok_or(BadConfig::Id(id))?,
            id_len: within(id_len, ID_LEN).ok_or(BadConfig::IdLen(id_len))?,
            nonce_len: within(nonce_len, NONCE_LEN).ok_or(BadConfig::NonceLen(nonce_len))?,
            key,
        };
        let sum = id_len + nonce_len;
        if sum > MAX_LEN.into() { Err(BadConfig::Sum(sum)) } else { Ok(config) }
    }

    pub fn id(&self) -> u8 {
        self.id
    }

    pub fn id_len(&self) -> u8 {
        self.id_len
    }

    pub fn nonce_len(&self) -> u8 {
        self.nonce_len
    }

    pub fn key(&self) -> Option<Key> {
        self.key
    }
}

/// Why a packet that begins a connection is scheduled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallback {
    /// It ends within what all QUIC packets have.
    NotQuic,
    /// Its client may have made the connection ID up.
    MadeUp,
    /// There is no configuration of this ID.
    NoConfig,
    /// The connection ID ends within what the configuration says.
    TooShort,
    /// It names a server ID that no real server has.
    NoServer,
}

impl Fallback {
    pub const ALL: [Fallback; 5] =
        [Fallback::NotQuic, Fallback::MadeUp, Fallback::NoConfig, Fallback::TooShort, Fallback::NoServer];

    /// As in metrics and roads.
    pub const fn label(self) -> &'static str {
        match self {
            Fallback::NotQuic => "not_quic",
            Fallback::MadeUp => "made_up",
            Fallback::NoConfig => "no_config",
            Fallback::TooShort => "too_short",
            Fallback::NoServer => "no_server",
        }
    }
}

/// A service's configurations, and its real servers' IDs.
#[derive(Clone, Debug, Default)]
pub struct QuicLb {
    configs: Vec<Config>,
    /// By config ID.
    decoders: [Option<Arc<Decoder>>; CONFIGS],
    servers: HashMap<QuicServerId, ServerId>,
    ids: HashMap<ServerId, Vec<QuicServerId>>,
}

impl QuicLb {
    /// Exchanges the configurations; real servers keep their IDs.
    ///
    /// # Errors
    /// Two have one ID. Nothing is changed.
    pub fn set_configs(&mut self, configs: Vec<Config>) -> Result<(), BadConfig> {
        let mut decoders: [Option<Arc<Decoder>>; CONFIGS] = Default::default();
        for config in &configs {
            let place = &mut decoders[usize::from(config.id)];
            if place.replace(Arc::new(Decoder::new(config))).is_some() {
                return Err(BadConfig::Twice(config.id));
            }
        }
        (self.configs, self.decoders) = (configs, decoders);
        Ok(())
    }

    /// In the operator's order.
    pub fn configs(&self) -> &[Config] {
        &self.configs
    }

    /// Nothing was said: neither a configuration nor a server ID.
    pub fn is_empty(&self) -> bool {
        self.configs.is_empty() && self.ids.is_empty()
    }

    /// The real server that has this ID.
    pub fn server(&self, id: &QuicServerId) -> Option<ServerId> {
        self.servers.get(id).copied()
    }

    /// The IDs of a real server, in the operator's order.
    pub fn ids(&self, server: ServerId) -> &[QuicServerId] {
        self.ids.get(&server).map_or(&[], Vec::as_slice)
    }

    /// Exchanges the IDs of a real server: no other may have one of them.
    pub fn set_ids(&mut self, server: ServerId, ids: Vec<QuicServerId>) {
        for id in self.ids.remove(&server).unwrap_or_default() {
            self.servers.remove(&id);
        }
        for id in &ids {
            let other = self.servers.insert(id.clone(), server);
            debug_assert!(other.is_none_or(|other| other == server), "a server ID is one server's");
        }
        if !ids.is_empty() {
            self.ids.insert(server, ids);
        }
    }

    /// The real server that the first packet of a connection names.
    ///
    /// `by_all`: also by connection IDs that clients may have made up, as §4.2 of the draft has it. Such a one may name a server by
    /// chance, or because its client chose it, quiesced or full as it may be: so these are believed only where no connection
    /// says where the later ones of the same client go.
    ///
    /// # Errors
    /// It names none.
    pub fn route(&self, datagram: &[u8], by_all: bool) -> Result<ServerId, Fallback> {
        let header = Header::of(datagram).ok_or(Fallback::NotQuic)?;
        if header.may_be_made_up && !by_all {
            return Err(Fallback::MadeUp);
        }
        let (&first, rest) = header.destination.split_first().ok_or(Fallback::TooShort)?;
        let decoder = self.decoders.get(usize::from(first >> 5)).and_then(Option::as_ref);
        let decoder = decoder.ok_or(Fallback::NoConfig)?;
        let block = decoder.decipher(rest).ok_or(Fallback::TooShort)?;
        let id = block.get(..decoder.id_len).ok_or(Fallback::TooShort)?;
        self.servers.get(id).copied().ok_or(Fallback::NoServer)
    }
}

/// A configuration, ready to read what it wrote.
struct Decoder {
    id_len: usize,
    /// Of server ID and nonce.
    len: usize,
    cipher: Option<Aes128>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("id_len", &self.id_len)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    fn new(config: &Config) -> Decoder {
        Decoder {
            id_len: config.id_len.into(),
            len: (config.id_len + config.nonce_len).into(),
            cipher: config.key.map(|key| Aes128::new(&key.0.into())),
        }
    }

    /// Server ID and, as far as it was needed to find that, nonce. `None`: there are fewer bytes.
    fn decipher(&self, bytes: &[u8]) -> Option<[u8; MAX_LEN as usize]> {
        let bytes = bytes.get(..self.len)?;
        let mut block = [0; MAX_LEN as usize];
        match &self.cipher {
            None => block.get_mut(..self.len)?.copy_from_slice(bytes),
            Some(cipher) => match bytes.first_chunk::<BLOCK>().filter(|_| self.len == BLOCK) {
                Some(single) => {
                    let mut plain = (*single).into();
                    cipher.decrypt_block(&mut plain);
                    block.first_chunk_mut::<BLOCK>()?.copy_from_slice(&plain);
                }
                None => self.undo_passes(cipher, bytes, &mut block)?,
            },
        }
        Some(block)
    }

    /// Undoes the four passes (§5.4.2): halves that are as long as each other take turns in covering one another. Of an odd number
    /// of bytes each half has four bits of the middle one.
    fn undo_passes(&self, cipher: &Aes128, bytes: &[u8], block: &mut [u8; MAX_LEN as usize]) -> Option<()> {
        let half = self.len.div_ceil(2);
        let is_odd = self.len % 2 == 1;
        let (mut left, mut right) = ([0; MAX_HALF], [0; MAX_HALF]);
        left.get_mut(..half)?.copy_from_slice(bytes.get(..half)?);
        right.get_mut(..half)?.copy_from_slice(bytes.get(self.len - half..)?);
        let trim_left = |left: &mut [u8; MAX_HALF]| {
            if is_odd && let Some(last) = left.get_mut(half - 1) {
                *last &= 0xf0;
            }
        };
        let trim_right = |right: &mut [u8; MAX_HALF]| {
            if is_odd {
                right[0] &= 0x0f;
            }
        };
        trim_left(&mut left);
        trim_right(&mut right);
        // The first pass covered the right half, of which a short server ID has nothing.
        let last = if self.id_len <= self.len / 2 { 2 } else { 1 };
        for pass in (last..=4).rev() {
            if pass % 2 == 0 {
                self.uncover(cipher, pass, half, &right, &mut left);
                trim_left(&mut left);
            } else {
                self.uncover(cipher, pass, half, &left, &mut right);
                trim_right(&mut right);
            }
        }
        block.get_mut(..half)?.copy_from_slice(left.get(..half)?);
        // The byte in the middle is both halves'.
        for (byte, right) in block.get_mut(self.len - half..self.len)?.iter_mut().zip(right) {
            *byte |= right;
        }
        Some(())
    }

    /// Takes away from one half what the other covered it with in a pass.
    fn uncover(
        &self,
        cipher: &Aes128,
        pass: u8,
        half: usize,
        by: &[u8; MAX_HALF],
        what: &mut [u8; MAX_HALF],
    ) {
        let mut expanded = [0; BLOCK];
        expanded[..MAX_HALF].copy_from_slice(by);
        (expanded[BLOCK - 2], expanded[BLOCK - 1]) = (self.len as u8, pass);
        let mut cover = expanded.into();
        cipher.encrypt_block(&mut cover);
        for (byte, cover) in what.iter_mut().zip(cover).take(half) {
            *byte ^= cover;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
