//! What is written is read again, and has the kernel's bytes.

use proptest::prelude::*;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::flow::edit::Edit;
use lb_core::tables::Protocol;

use super::record::OPTION_MAY_BE_SKIPPED;
use super::*;

fn endpoint(is_ipv6: bool) -> BoxedStrategy<SocketAddr> {
    if is_ipv6 {
        any::<(Ipv6Addr, u16)>().prop_map(SocketAddr::from).boxed()
    } else {
        any::<(Ipv4Addr, u16)>().prop_map(SocketAddr::from).boxed()
    }
}

fn sequence() -> impl Strategy<Value = Sequence> {
    any::<[u32; 3]>().prop_map(|[from, delta, delta_before]| Sequence { from, delta, delta_before })
}

/// Any that may be told of.
fn edit() -> impl Strategy<Value = Edit> {
    let bytes = prop::array::uniform32(any::<u8>()).prop_flat_map(|first| {
        (
            Just(first),
            any::<[u8; 6]>(),
            prop::sample::select(vec![1u8, 2, 4, 8, 9, 12, 16, 25]),
            0..4u8,
            [-14..=14i8, -14..=14i8],
        )
    });
    bytes.prop_map(|(first, rest, wants, stage, scales)| {
        let mut bytes = [0; Edit::BYTES];
        bytes[..32].copy_from_slice(&first);
        bytes[32..].copy_from_slice(&rest);
        let open = if wants & 16 != 0 { 4 } else { 0 };
        bytes[..4].copy_from_slice(&[wants, stage | open, scales[0] as u8, scales[1] as u8]);
        for at in [14, 25] {
            bytes[at] &= 1;
        }
        for scale in &mut bytes[36..] {
            *scale = if *scale > 200 { 255 } else { *scale % 15 };
        }
        Edit::from_bytes(&bytes).expect("one that there may be")
    })
}

/// With what a kernel would not understand.
fn own_record() -> impl Strategy<Value = (Record<'static>, Vec<u8>, Vec<u8>)> {
    let ends = any::<(bool, bool)>().prop_flat_map(|(is_ipv6, is_mixed)| {
        (
            prop::option::of(endpoint(is_ipv6)),
            prop::option::of(endpoint(is_mixed)),
            endpoint(is_ipv6 != is_mixed),
        )
    });
    (record(), ends, prop::option::of(edit())).prop_map(
        |((record, data, name), (call, local, server), edit)| {
            let call = call.filter(|call| call.is_ipv6() == record.client.is_ipv6());
            (Record { call, local, edit, server, ..record }, data, name)
        },
    )
}

/// A record, and the data of its engine.
fn record() -> impl Strategy<Value = (Record<'static>, Vec<u8>, Vec<u8>)> {
    let ends = any::<bool>().prop_flat_map(|is_ipv6| [(); 3].map(|()| endpoint(is_ipv6)));
    let numbers = any::<(u8, u32, u16, u32, u32)>();
    let sequences = prop::option::of([sequence(), sequence()]);
    let engine = (prop::collection::vec(any::<u8>(), 0..=255), prop::collection::vec(any::<u8>(), 0..=16));
    (ends, numbers, sequences, engine).prop_map(|(ends, numbers, sequences, (data, name))| {
        let [client, virtual_, server] = ends;
        let (protocol, flags, state, fwmark, timeout) = numbers;
        let record = Record::new(Protocol(protocol), client, virtual_, server);
        (Record { flags, state, fwmark, timeout, sequences, ..record }, data, name)
    })
}

fn read(bytes: &[u8]) -> Vec<Record<'_>> {
    match Message::read(bytes) {
        Ok(Message::Connections(all)) => all.map(|record| record.expect("as it was written")).collect(),
        other => panic!("{other:?}"),
    }
}

/// As the kernel's master sends it: laid out by hand.
#[test]
fn a_message_has_the_bytes_that_the_kernel_knows() {
    let v4 = Record {
        flags: flags::DIRECT | flags::INACTIVE,
        state: 1,
        fwmark: 0x0102_0304,
        timeout: 900,
        engine_data: b"abc",
        engine_name: b"sip",
        ..Record::new(
            Protocol::TCP,
            "192.0.2.7:1025".parse().expect("valid"),
            "198.51.100.1:80".parse().expect("valid"),
            "10.0.0.1:8080".parse().expect("valid"),
        )
    };
    let v6 = Record {
        sequences: Some([
            Sequence { from: 1, delta: 2, delta_before: 3 },
            Sequence { from: 4, delta: 5, delta_before: 6 },
        ]),
        ..Record::new(
            Protocol::UDP,
            "[2001:db8::7]:53".parse().expect("valid"),
            "[2001:db8::1]:54".parse().expect("valid"),
            "[2001:db8::2]:55".parse().expect("valid"),
        )
    };
    let mut writer = Writer::new(Audience::All, 9, 1472);
    assert!(writer.add(&v4) && writer.add(&v6));
    let message = writer.message(<[u8]>::to_vec).expect("two connections");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&message[..8]), "0009009a02010000", "header: 154 bytes, 2 connections, version 1");
    assert_eq!(
        hex(&message[8..54]),
        "0006002e000001030001040100501f90010203040000 0384c0000207c63364010a0000010203616263 0303736970"
            .replace(' ', "")
    );
    assert_eq!(hex(&message[54..56]), "0000", "padding in no one's size");
    assert_eq!(hex(&message[56..80]), "011100620000000000000035003600370000000000000000");
    assert_eq!(hex(&message[128..]), "0118000000010000000200000003000000040000000500000006 ".trim());
    assert_eq!(hex(&message[126..130]), "00020118");
    assert_eq!(read(&message), [v4, v6]);
}

#[test]
fn a_message_of_an_old_kernel_is_read() {
    let hex = "0207004c \
               0006 0401 0050 1f90 c0000207 c6336401 0a000001 0003 0001 \
               0011 0035 0036 0037 c0000207 c6336401 0a000002 0600 0000 \
               010000000200000003000000040000000500000006000000"
        .replace(' ', "");
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    let end = |text: &str| text.parse().expect("valid");
    let first = Record {
        flags: flags::DIRECT,
        state: 1,
        ..Record::new(Protocol::TCP, end("192.0.2.7:1025"), end("198.51.100.1:80"), end("10.0.0.1:8080"))
    };
    let second = Record {
        flags: flags::SEQUENCES,
        ..Record::new(Protocol::UDP, end("192.0.2.7:53"), end("198.51.100.1:54"), end("10.0.0.2:55"))
    };
    assert_eq!(read(&bytes), [first, second]);
    let Ok(Message::Connections(all)) = Message::read(&bytes) else { panic!("{bytes:?}") };
    assert_eq!(all.syncid, 7);
}

/// What a helper that changes sequence numbers, and a persistence engine, say of an IPv6 connection.
#[test]
fn all_options_of_an_ipv6_connection_have_the_bytes_that_the_kernel_knows() {
    let record = Record {
        flags: flags::TUNNEL | flags::TEMPLATE | 0x0200,
        state: 0x0102,
        fwmark: 7,
        timeout: 360,
        sequences: Some([
            Sequence { from: 0x0a0b_0c0d, delta: 1, delta_before: u32::MAX },
            Sequence::default(),
        ]),
        engine_data: b"a84b4c76e66710@pc33.example.com",
        engine_name: b"sip",
        ..Record::new(
            Protocol::UDP,
            "[2001:db8::7]:0".parse().expect("valid"),
            "[2001:db8::1]:5060".parse().expect("valid"),
            "[2001:db8::2]:0".parse().expect("valid"),
        )
    };
    let mut writer = Writer::new(Audience::All, 255, 1472);
    assert!(writer.add(&record));
    let message = writer.message(<[u8]>::to_vec).expect("a connection");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    // Header; 24 bytes; three addresses; then type, length and data of each option.
    assert_eq!(hex(&message[..8]), "00ff009001010000");
    assert_eq!(hex(&message[8..32]), "01110088000012020102000013c400000000000700000168");
    assert_eq!(hex(&message[32..48]), "20010db8000000000000000000000007");
    assert_eq!(hex(&message[64..80]), "20010db8000000000000000000000002");
    assert_eq!(hex(&message[80..106]), "01180a0b0c0d00000001ffffffff000000000000000000000000");
    assert_eq!(hex(&message[106..108]), "021f");
    assert_eq!(&message[108..139], b"a84b4c76e66710@pc33.example.com");
    assert_eq!(hex(&message[139..]), "0303736970");
    assert_eq!(read(&message), [record]);
}

#[test]
fn a_message_of_our_own_is_an_empty_one_of_version_0_to_the_kernel() {
    for call in
        [Call::Ask { number: 7 }, Call::Begin { number: 7 }, Call::Done { number: 8, connections: 1 << 40 }]
    {
        let message = call.message(3);
        assert_eq!(Message::read(&message), Ok(Message::Own { syncid: 3, call }));
        assert_eq!(message[0], 0, "connections, in version 0");
        assert_eq!(message[1..4], [3, 0, 24], "syncid and size, in both");
        assert_ne!(message[5], VERSION);
    }
}

#[test]
fn a_message_takes_as_many_connections_as_it_has_room_and_a_long_one_alone() {
    let end = |port| SocketAddr::from(([192, 0, 2, 1], port));
    let record = |port| Record::new(Protocol::TCP, end(port), end(2), end(3));
    let mut writer = Writer::new(Audience::All, 0, 8 + 3 * 36);
    assert_eq!([1, 2, 3, 4].map(|port| writer.add(&record(port))), [true, true, true, false]);
    assert_eq!(writer.message(<[u8]>::len), Some(116));
    assert_eq!(writer.message(<[u8]>::len), None);
    let mut narrow = Writer::new(Audience::All, 0, 1);
    assert!(narrow.add(&record(1)));
    assert!(!narrow.add(&record(2)));
    let mut wide = Writer::new(Audience::All, 0, 65_507);
    assert_eq!((0..300).filter(|&port| wide.add(&record(port))).count(), 255);
}

#[test]
fn what_is_wrong_with_a_message_is_found() {
    let end = SocketAddr::from(([192, 0, 2, 1], 1));
    let mut writer = Writer::new(Audience::All, 0, 1472);
    let mut good = Vec::new();
    for _ in 0..2 {
        assert!(writer.add(&Record {
            sequences: Some(Default::default()),
            ..Record::new(Protocol::TCP, end, end, end)
        }));
    }
    writer.message(|bytes| good = bytes.to_vec());
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        match Message::read(&bytes) {
            Ok(Message::Connections(all)) => all.map(|record| record.err()).collect(),
            Ok(other) => panic!("{other:?}"),
            Err(why) => vec![Some(why)],
        }
    };
    assert_eq!(changed(1, 200), [None, None], "any syncid");
    assert_eq!(changed(0, 1), [None], "a message of version 0");
    assert_eq!(changed(0, 9).last(), Some(&Some(Malformed::Short)), "of more connections than there are");
    assert_eq!(changed(3, 0), [Some(Malformed::Size)]);
    assert_eq!(changed(5, 2), [Some(Malformed::Version)]);
    assert_eq!(changed(7, 1), [Some(Malformed::Version)]);
    assert_eq!(changed(4, 3), [None, None, Some(Malformed::Short)], "more connections than there are");
    assert_eq!(changed(8, 2), [Some(Malformed::Kind)]);
    assert_eq!(changed(8, 1), [Some(Malformed::Short)], "too short for IPv6");
    assert_eq!(changed(10, 0x10), [Some(Malformed::Version)]);
    assert_eq!(changed(11, 0), [Some(Malformed::Short)]);
    assert_eq!(changed(11, 255), [Some(Malformed::Short)]);
    assert_eq!(changed(44, 9), [Some(Malformed::Option)], "one that must not be skipped");
    assert_eq!(changed(44, 9 | OPTION_MAY_BE_SKIPPED), [None, None]);
    assert_eq!(changed(45, 23), [Some(Malformed::Option)]);
    assert_eq!(Message::read(&good[..7]), Err(Malformed::Short));
}

/// Laid out by hand: an IPv4 client of an IPv6 real server, by FullNAT; and a call's template.
#[test]
fn what_the_kernel_has_no_words_for_is_in_a_message_in_which_it_finds_nothing() {
    let full_nat = Record {
        local: Some("[fd00::1]:1025".parse().expect("valid")),
        ..Record::new(
            Protocol::TCP,
            "192.0.2.7:1025".parse().expect("valid"),
            "198.51.100.1:80".parse().expect("valid"),
            "[fd00::11]:8080".parse().expect("valid"),
        )
    };
    let call = Record {
        flags: flags::TEMPLATE,
        engine_name: b"sip",
        call: Some("1.2.3.4:5".parse().expect("valid")),
        ..Record::new(
            Protocol::UDP,
            "192.0.2.7:0".parse().expect("valid"),
            "198.51.100.1:5060".parse().expect("valid"),
            "10.0.0.1:5060".parse().expect("valid"),
        )
    };
    assert_eq!([full_nat.audience(), call.audience()], [Audience::Own; 2]);
    let mut writer = Writer::new(Audience::Own, 9, 1472);
    assert!(writer.add(&full_nat) && writer.add(&call));
    let message = writer.message(<[u8]>::to_vec).expect("two connections");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(
        hex(&message[..12]),
        "00090089006c000004020000",
        "137 bytes, no connections for version 0; two"
    );
    assert_eq!(hex(&message[12..20]), "0006004a00000000");
    assert_eq!(hex(&message[36..48]), "c0000207c633640100000000", "no room for the server's address");
    assert_eq!(hex(&message[48..68]), "7c120401fd00000000000000000000000000".to_owned() + "0001");
    assert_eq!(hex(&message[68..86]), "7d10fd000000000000000000000000000011");
    assert_eq!(hex(&message[124..]), "03037369707e0600050102".to_owned() + "0304");
    assert_eq!(read(&message), [full_nat, call]);
}

/// As an FTP control connection is told of: the kernel finds its own option, and skips ours.
#[test]
fn an_edit_of_ftps_helper_stands_beside_the_sequence_numbers_that_the_kernel_knows() {
    let sequences = [Default::default(), Sequence { from: 0x0a0b_0c0d, delta: 5, delta_before: 0 }];
    let edit =
        Edit::of_kernels_ftp(sequences.map(|side: Sequence| [side.from, side.delta, side.delta_before]));
    let end = |text: &str| text.parse().expect("valid");
    let record = Record {
        flags: flags::SEQUENCES_FROM_SERVER,
        sequences: Some(sequences),
        edit,
        ..Record::new(Protocol::TCP, end("192.0.2.7:1025"), end("198.51.100.1:21"), end("10.0.0.1:21"))
    };
    assert_eq!(record.audience(), Audience::All);
    let mut writer = Writer::new(Audience::All, 0, 1472);
    assert!(writer.add(&record));
    let message = writer.message(<[u8]>::to_vec).expect("a connection");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&message[8..16]), "0006006600000200");
    assert_eq!(hex(&message[44..70]), "01180000000000000000000000000a0b0c0d0000000500000000");
    assert_eq!(message[70..72], [63 | OPTION_MAY_BE_SKIPPED, Edit::BYTES as u8]);
    assert_eq!(read(&message), [record]);
}

proptest! {
    #[test]
    fn what_is_for_our_kind_alone_reads_as_it_was_written(all in prop::collection::vec(own_record(), 1..8), max in 1..2000usize) {
        let records: Vec<_> = all.iter().map(|(record, data, name)| {
            Record { engine_data: data, engine_name: name, ..*record }
        }).collect();
        let mut writers = [Audience::All, Audience::Own].map(|audience| Writer::new(audience, 5, max));
        let mut messages = Vec::new();
        for record in &records {
            let writer = &mut writers[record.audience() as usize];
            if !writer.add(record) {
                messages.extend(writer.message(<[u8]>::to_vec));
                prop_assert!(writer.add(record));
            }
        }
        messages.extend(writers.iter_mut().filter_map(|writer| writer.message(<[u8]>::to_vec)));
        let again: Vec<_> = messages.iter().flat_map(|message| read(message)).collect();
        prop_assert_eq!(again.len(), records.len());
        prop_assert!(again.iter().all(|record| records.contains(record)));
        for message in messages {
            let has_own = read(&message).iter().any(|record| record.audience() == Audience::Own);
            prop_assert!(message[4] == 0 && message[5] != VERSION || !has_own);
        }
    }

    #[test]
    fn records_read_as_they_were_written(all in prop::collection::vec(record(), 1..8), max in 1..2000usize) {
        let records: Vec<_> = all.iter().map(|(record, data, name)| {
            Record { engine_data: data, engine_name: name, ..*record }
        }).collect();
        let (mut writer, mut messages) = (Writer::new(Audience::All, 5, max), Vec::new());
        for record in &records {
            if !writer.add(record) {
                messages.extend(writer.message(<[u8]>::to_vec));
                prop_assert!(writer.add(record));
            }
        }
        messages.extend(writer.message(<[u8]>::to_vec));
        let again: Vec<_> = messages.iter().flat_map(|message| read(message)).collect();
        prop_assert_eq!(again, records);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(
        head in prop::option::of((any::<u8>(), any::<u8>())),
        mut bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(36), any::<u8>()], 0..200),
    ) {
        if let (Some((syncid, count)), len @ 8..) = (head, bytes.len()) {
            bytes[..8].copy_from_slice(&[0, syncid, 0, len as u8, count, VERSION, 0, 0]);
        }
        if let Ok(Message::Connections(all)) = Message::read(&bytes) {
            let read: Vec<_> = all.collect();
            prop_assert!(read.len() <= 255);
            prop_assert!(read.iter().rev().skip(1).all(|record| record.is_ok()), "the first error ends it");
        }
    }
}
