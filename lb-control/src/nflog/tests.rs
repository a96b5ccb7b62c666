//! Goal: what is kept is there for others to read. Method: packets in, files read by a reader that is not ours.

use arrayvec::ArrayVec;
use lb_core::hook::Hook;
use lb_core::path::tuple_of_frame;
use lb_core::probe::Probe;
use lb_core::rule::capture::Wanted;
use lb_core::tables::{Interface, Protocol};
use lb_core::wire::checksum;
use lb_core::wire::parse::{Parsed, parse};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGReader};

use super::*;

fn interfaces() -> Interfaces {
    let interface = |name: &str, port| Interface {
        name: name.into(),
        port: lb_core::ids::PortId(port),
        vlan: 0,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        outside: true,
        group: 0,
        ipv4: None,
        ipv6: None,
    };
    Interfaces::new(vec![interface("wan", 0), interface("lan", 1)])
}

/// A datagram to 192.0.2.1:53 with so many bytes, which was translated to 10.0.0.11:5353 when the rule saw it.
fn captured(group: u16, data: u16) -> Captured {
    let probe = Probe {
        src: [192, 0, 2, 100].into(),
        dst: [192, 0, 2, 1].into(),
        protocol: Protocol::UDP,
        sport: 4000,
        dport: 53,
        tcp_flags: 0,
        icmp: (0, 0),
        ttl: 64,
        data,
    };
    let frame = probe.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0);
    let Ok(Parsed::Ip(headers)) = parse(&frame, frame.len(), Default::default()) else { panic!("no IP") };
    let tuple = tuple_of_frame(&frame).expect("it has ports");
    Captured {
        wanted: Wanted { group, ..Wanted::default() },
        hook: Hook::Forward,
        input: Some(InterfaceId(0)),
        output: Some(InterfaceId(1)),
        mark: 0,
        tuple: lb_core::flow::Tuple { dst: [10, 0, 0, 11].into(), dport: 5353, ..tuple },
        hops: 1,
        at: Tick(1000),
        frame: ArrayVec::try_from(&frame[..]).expect("it fits"),
        headers,
    }
}

const NOW: Now = Now { tick: Tick(1100), wall: 1_700_000_001_000_000 };

/// A packet as another reader finds it.
#[derive(PartialEq, Debug)]
struct Found {
    interface: String,
    at: u64,
    frame: Vec<u8>,
    len: u32,
    comment: String,
}

fn read(path: &Path) -> Vec<Found> {
    let mut reader = PcapNGReader::new(1 << 20, File::open(path).expect("a file")).expect("pcapng");
    let (mut names, mut found) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok((used, block)) => {
                let PcapBlockOwned::NG(block) = block else { panic!("no pcapng") };
                match block {
                    Block::SectionHeader(_) => names.clear(),
                    Block::InterfaceDescription(interface) => {
                        let name = interface.options.iter().find(|option| option.code == OptionCode(2));
                        let name = &name.expect("a name").value;
                        names.push(
                            String::from_utf8(name.to_vec()).expect("text").trim_end_matches('\0').to_owned(),
                        );
                    }
                    Block::EnhancedPacket(packet) => {
                        let comment = packet.options.iter().find(|option| option.code == OptionCode::Comment);
                        let comment = comment.expect("a comment").as_bytes().expect("bytes").to_vec();
                        found.push(Found {
                            interface: names[packet.if_id as usize].clone(),
                            at: u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                            frame: packet.packet_data().to_vec(),
                            len: packet.origlen,
                            comment: String::from_utf8(comment).expect("text"),
                        });
                    }
                    other => panic!("{other:?}"),
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => return found,
            Err(PcapError::Incomplete(_)) => reader.refill().expect("a file"),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn writer(directory: &Path, file_mb: u32, files: u32) -> Writer {
    Writer::new(Nflog { directory: directory.to_owned(), file_mb, files })
}

#[test]
fn another_reader_finds_a_packet_as_its_rule_saw_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let deep = directory.path().join("not/there/yet");
    let (mut writer, captures) = (writer(&deep, 1, 1), Captures::default());
    let prefix = lb_core::rule::event::prefix("dns ");
    let whole =
        Captured { mark: 7, wanted: Wanted { group: 3, prefix, size: None, threshold: 2 }, ..captured(3, 8) };
    let cut = Captured {
        wanted: Wanted { group: 3, size: Some(20), ..Wanted::default() },
        input: None,
        hook: Hook::Output,
        ..captured(3, 8)
    };
    writer.put(whole, &interfaces(), NOW, &captures);
    let path = deep.join("nflog-3.pcapng");
    assert_eq!(fs::metadata(&path).expect("a file").len(), 0, "two are to be written together");
    writer.put(cut, &interfaces(), NOW, &captures);
    writer.end(&captures);
    let found = read(&path);
    let told = |found: &Found| {
        (found.interface.clone(), found.at, found.frame.len(), found.len, found.comment.clone())
    };
    let at = 1_700_000_000_000_000;
    let first = ("wan".to_owned(), at, 50, 50, "\"dns \" FORWARD IN=wan OUT=lan MARK=0x7".to_owned());
    let second = ("lan".to_owned(), at, 34, 50, "OUTPUT IN= OUT=lan".to_owned());
    assert_eq!(found.iter().map(told).collect::<Vec<_>>(), [first, second]);
    let frame = &found[0].frame;
    let Ok(Parsed::Ip(headers)) = parse(frame, frame.len(), Default::default()) else { panic!("no IP") };
    let tuple = tuple_of_frame(frame).expect("it has ports");
    assert_eq!((tuple.dst, tuple.dport, headers.ttl), ([10, 0, 0, 11].into(), 5353, 63));
    assert!(checksum::is_good(checksum::of_transport(frame, &headers).expect("whole")));
    assert_eq!((captures.written.get(), captures.unwritten.get()), (2, 0));
}

#[test]
fn a_full_file_is_followed_by_the_next_and_the_oldest_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, captures) = (writer(directory.path(), 1, 2), Captures::default());
    // Some 2 KiB each: a file has 512 of them, and what waits.
    for _ in 0..2000 {
        writer.put(captured(0, 1950), &interfaces(), NOW, &captures);
    }
    // As after a restart.
    writer.end(&captures);
    writer.put(captured(0, 1950), &interfaces(), NOW, &captures);
    writer.end(&captures);
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .expect("a directory")
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["nflog-0.1.pcapng", "nflog-0.pcapng"]);
    let [before, now] = [1, 0].map(|age| read(&path(directory.path(), 0, age)).len());
    assert!((500..700).contains(&before) && (1..700).contains(&now), "{before}, {now}");
    assert_eq!(captures.written.get(), 2001);
}

#[test]
fn what_cannot_be_written_is_counted_and_a_file_that_is_in_the_way_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = directory.path().join("taken");
    fs::write(&taken, "mine").expect("a file");
    let (mut writer, captures) = (writer(&taken, 1, 2), Captures::default());
    for _ in 0..3 {
        writer.put(captured(0, 8), &interfaces(), NOW, &captures);
    }
    assert_eq!((captures.written.get(), captures.unwritten.get()), (0, 3));
    assert_eq!(fs::read(&taken).expect("a file"), b"mine");
    writer.follow(&Nflog { directory: directory.path().join("free"), file_mb: 1, files: 2 }, &captures);
    writer.put(captured(0, 8), &interfaces(), NOW, &captures);
    writer.end(&captures);
    assert_eq!(captures.written.get(), 1);
}
