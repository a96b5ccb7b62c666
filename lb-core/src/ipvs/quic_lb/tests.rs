//! Connection IDs as servers make them, by an encoder that follows the draft's steps half-byte by half-byte.

use proptest::prelude::*;

use super::*;

pub(crate) fn id(text: &str) -> QuicServerId {
    QuicServerId::parse(text).expect(text)
}

pub(crate) fn config(id: u32, id_len: u32, nonce_len: u32, key: Option<&str>) -> Config {
    Config::new(id, id_len, nonce_len, key.map(|key| Key::parse(key).expect(key))).expect("a configuration")
}

pub(crate) fn quic_lb(configs: &[Config], servers: &[(&str, u32)]) -> QuicLb {
    let mut quic = QuicLb::default();
    quic.set_configs(configs.to_vec()).expect("each once");
    for &(server_id, server) in servers {
        quic.set_ids(ServerId(server), vec![id(server_id)]);
    }
    quic
}

fn bytes(text: &str) -> Vec<u8> {
    from_hex::<40>(text).expect(text).to_vec()
}

/// The connection ID of a server, which writes its length into it.
pub(crate) fn encode(config: &Config, server: &QuicServerId, nonce: &[u8]) -> Vec<u8> {
    let plain = [&server.0[..], nonce].concat();
    assert_eq!((server.len(), nonce.len()), (config.id_len, config.nonce_len.into()));
    let mut connection_id = vec![config.id << 5 | plain.len() as u8];
    let Some(key) = config.key else {
        connection_id.extend(plain);
        return connection_id;
    };
    let cipher = Aes128::new(&key.0.into());
    let encrypt = |block: [u8; BLOCK]| {
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        <[u8; BLOCK]>::from(block)
    };
    if let Ok(block) = <[u8; BLOCK]>::try_from(&plain[..]) {
        connection_id.extend(encrypt(block));
        return connection_id;
    }
    let nibbles = |bytes: &[u8]| bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect::<Vec<u8>>();
    let packed = |nibbles: &[u8]| nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>();
    let mut left = nibbles(&plain);
    let mut right = left.split_off(plain.len());
    // Half a byte that is missing is 0: at the end of the left half, at the begin of the right one.
    let missing = vec![0; plain.len() % 2];
    for pass in 1..=4 {
        let from_left = pass % 2 == 1;
        let input = if from_left { [&left[..], &missing[..]] } else { [&missing[..], &right[..]] };
        let mut block = [0; BLOCK];
        let input = packed(&input.concat());
        block[..input.len()].copy_from_slice(&input);
        (block[14], block[15]) = (plain.len() as u8, pass);
        let cover = nibbles(&encrypt(block));
        if from_left {
            right.iter_mut().zip(&cover[missing.len()..]).for_each(|(nibble, cover)| *nibble ^= cover);
        } else {
            left.iter_mut().zip(&cover).for_each(|(nibble, cover)| *nibble ^= cover);
        }
    }
    connection_id.extend(packed(&[left, right].concat()));
    connection_id
}

/// A packet with a short header.
pub(crate) fn short(connection_id: &[u8]) -> Vec<u8> {
    [&[0x45], connection_id, b"protected"].concat()
}

const KEY: &str = "8f95f09245765f80256934e50c66207f";

/// Server ID, nonce, key, connection ID.
type Vector = (&'static str, &'static str, Option<&'static str>, &'static str);

/// Appendix B of the draft, and the example of its §5.4.2.5. Two have slips there: the nonce of the second one is half a byte longer and
/// its connection ID has no length, and what is to have config ID 3 has 0.
const VECTORS: [Vector; 7] = [
    ("c4605e", "4504cc4f", None, "07c4605e4504cc4f"),
    ("350d28b420", "3487d970", None, "29350d28b4203487d970"),
    ("ed793a", "ee080dbf", Some(KEY), "0720b1d07b359d3c"),
    ("ed793a51d49b8f5fab65", "ee080dbf48", Some(KEY), "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    ("ed793a51d49b8f5f", "ee080dbf48c0d1e5", Some(KEY), "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    ("ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", Some(KEY), "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
    ("31441a", "9c69c275", Some("fdf726a9893ec05c0632d3956680baf0"), "0767947d29be054a"),
];

#[test]
fn the_drafts_connection_ids_name_the_drafts_servers() {
    for (server, nonce, key, connection_id) in VECTORS {
        let (nonce, connection_id) = (bytes(nonce), bytes(connection_id));
        let config = config((connection_id[0] >> 5).into(), id(server).len().into(), nonce.len() as u32, key);
        assert_eq!(encode(&config, &id(server), &nonce), connection_id, "{server}");
        let quic = quic_lb(&[config], &[(server, 3)]);
        assert_eq!(quic.route(&short(&connection_id), false), Ok(ServerId(3)), "{server}");
    }
}

#[test]
fn what_names_no_server_says_why() {
    let quic = quic_lb(&[config(0, 2, 4, None), config(6, 3, 13, Some(KEY))], &[("0a1b", 3), ("0a1b2c", 4)]);
    let named = bytes("000a1b00112233");
    let long = |first: u8, version: u8, id: &[u8]| [&[first, 0, 0, 0, version, id.len() as u8], id].concat();
    for (datagram, expected) in [
        (short(&named), Ok(ServerId(3))),
        // The five bits that follow the config ID say nothing.
        (short(&bytes("1f0a1b00112233")), Ok(ServerId(3))),
        (long(0xe0, 1, &named), Ok(ServerId(3))),
        // A version that nobody here knows.
        (long(0xc0, 9, &named), Ok(ServerId(3))),
        (long(0xc0, 1, &named), Err(Fallback::MadeUp)),
        (long(0xd0, 1, &named), Err(Fallback::MadeUp)),
        (long(0xe0, 1, &named[..6]), Err(Fallback::TooShort)),
        (long(0xe0, 1, &[]), Err(Fallback::TooShort)),
        (vec![0x45], Err(Fallback::TooShort)),
        (vec![], Err(Fallback::NotQuic)),
        (vec![0xe0, 0, 0], Err(Fallback::NotQuic)),
        (short(&bytes("000a1c00112233")), Err(Fallback::NoServer)),
        (short(&bytes("200a1b00112233")), Err(Fallback::NoConfig)),
        (short(&bytes("e00a1b00112233")), Err(Fallback::NoConfig)),
    ] {
        assert_eq!(quic.route(&datagram, false), expected, "{datagram:02x?}");
    }
    assert_eq!(quic.route(&long(0xc0, 1, &named), true), Ok(ServerId(3)));
}

#[test]
fn a_server_has_the_ids_that_it_was_given_last() {
    let mut quic = quic_lb(&[config(1, 1, 4, None)], &[("0a", 3), ("0b", 4)]);
    quic.set_ids(ServerId(3), vec![id("0c"), id("0d0e")]);
    let named = |quic: &QuicLb, text: &str| quic.server(&id(text)).map(|server| server.0);
    assert_eq!(["0a", "0b", "0c", "0d0e"].map(|text| named(&quic, text)), [None, Some(4), Some(3), Some(3)]);
    assert_eq!(quic.ids(ServerId(3)), [id("0c"), id("0d0e")]);
    for server in [3, 4] {
        quic.set_ids(ServerId(server), Vec::new());
    }
    assert_eq!(named(&quic, "0b"), None);
    assert!(!quic.is_empty());
    assert_eq!(quic.set_configs(vec![config(1, 1, 4, None); 2]), Err(BadConfig::Twice(1)));
    assert_eq!(quic.configs().len(), 1);
    quic.set_configs(Vec::new()).expect("none");
    assert!(quic.is_empty());
}

#[test]
fn a_configuration_is_within_what_a_connection_id_holds() {
    for (asked, expected) in [
        ((6, 15, 4), Ok(())),
        ((0, 1, 18), Ok(())),
        ((7, 1, 4), Err("config_id 7 is outside 0..=6")),
        ((300, 1, 4), Err("config_id 300 is outside 0..=6")),
        ((0, 0, 4), Err("server_id_length 0 is outside 1..=15")),
        ((0, 16, 4), Err("server_id_length 16 is outside 1..=15")),
        ((0, 1, 3), Err("nonce_length 3 is outside 4..=18")),
        ((0, 2, 18), Err("server_id_length and nonce_length are 20 bytes together, more than 19")),
    ] {
        let (config, id, nonce) = asked;
        let made = Config::new(config, id, nonce, None).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(made, expected.map_err(str::to_owned), "{asked:?}");
    }
}

#[test]
fn keys_are_read_and_are_not_shown_by_chance() {
    let key = Key::parse(&KEY.to_uppercase()).expect("a key");
    assert_eq!(key.reveal(), KEY);
    let shown = format!("{:?}", quic_lb(&[config(0, 3, 4, Some(KEY))], &[("0a1b2c", 1)]));
    assert!(!shown.contains("8f95") && !shown.contains("143, 149"), "{shown}");
    for wrong in ["", "8f", &KEY[1..], &format!("{KEY}00"), &KEY.replace('f', "g")] {
        assert_eq!(Key::parse(wrong), None, "{wrong}");
    }
    for wrong in ["", "a", "0x", "0a 1", "000102030405060708090a0b0c0d0e0f"] {
        assert_eq!(QuicServerId::parse(wrong), None, "{wrong}");
    }
    assert_eq!(id("0A1b").to_string(), "0a1b");
}

/// Lengths that go together.
fn lengths() -> impl Strategy<Value = (u32, u32)> {
    (1u32..=15).prop_flat_map(|id_len| (Just(id_len), 4..=19 - id_len))
}

proptest! {
    #[test]
    fn what_a_server_writes_is_read_whatever_the_configuration(
        (id_len, nonce_len) in lengths(),
        config_id in 0u32..7,
        key in any::<Option<[u8; 16]>>(),
        plain in any::<[u8; 19]>(),
        more in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let config = Config::new(config_id, id_len, nonce_len, key.map(Key)).expect("within");
        let (server, nonce) = plain[..(id_len + nonce_len) as usize].split_at(id_len as usize);
        let server = QuicServerId(server.iter().copied().collect());
        let mut quic = QuicLb::default();
        quic.set_configs(vec![config]).expect("one");
        quic.set_ids(ServerId(7), vec![server.clone()]);
        let mut connection_id = encode(&config, &server, nonce);
        connection_id.extend(more);
        prop_assert_eq!(quic.route(&short(&connection_id), false), Ok(ServerId(7)));
    }

    #[test]
    fn no_datagram_does_harm(
        (id_len, nonce_len) in lengths(),
        key in any::<Option<[u8; 16]>>(),
        datagram in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let config = Config::new(0, id_len, nonce_len, key.map(Key)).expect("within");
        let mut quic = QuicLb::default();
        quic.set_configs(vec![config]).expect("one");
        prop_assert!(quic.route(&datagram, true).is_err());
    }
}
