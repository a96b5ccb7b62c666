//! The options of conntrack 1.4.7, and which of them go with which command.
//!
//! One row an option: parsing, checking and help follow from it. Names, letters and what combines are recorded behaviour and
//! conntrack(8).

use lb_core::conntrack::sctp::SctpState;
use lb_core::conntrack::tcp::TcpState;

/// A command, as a bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    List,
    Create,
    Add,
    Update,
    Delete,
    Get,
    Flush,
    Event,
    Count,
    Statistics,
    Help,
    Version,
}

/// An option as typed that is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opt {
    Src,
    Dst,
    ReplySrc,
    ReplyDst,
    Protocol,
    Timeout,
    Status,
    Zero,
    EventMask,
    TupleSrc,
    TupleDst,
    MaskSrc,
    MaskDst,
    NatRange,
    Mark,
    Id,
    Family,
    SrcNat,
    DstNat,
    Output,
    Secmark,
    BufferSize,
    AnyNat,
    Zone,
    Label,
    LabelAdd,
    LabelDel,
    OrigZone,
    ReplyZone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    Nothing,
    Argument,
    /// An argument in the same word, or the next word unless that begins with `-`.
    Optional,
}

pub(crate) struct VerbRow {
    pub(crate) verb: Verb,
    pub(crate) short: char,
    pub(crate) long: &'static [&'static str],
    /// The help's words; empty: not shown.
    pub(crate) arguments: &'static str,
    pub(crate) help: &'static str,
}

pub(crate) const VERBS: &[VerbRow] = &[
    verb(Verb::List, 'L', &["dump"], "[TABLE] [OPTIONS]", "list connections"),
    verb(Verb::Get, 'G', &["get"], "OPTIONS", "show the one connection that they name"),
    verb(Verb::Delete, 'D', &["delete"], "OPTIONS", "end the connections that they fit, and show them"),
    verb(Verb::Flush, 'F', &["flush"], "[TABLE]", "end all connections"),
    verb(Verb::Count, 'C', &["count"], "[TABLE]", "how many connections there are"),
    verb(Verb::Statistics, 'S', &["stats"], "[TABLE]", "what each worker counts"),
    verb(
        Verb::Event,
        'E',
        &["event"],
        "[TABLE] [OPTIONS]",
        "show what becomes of connections, as it happens",
    ),
    verb(
        Verb::Create,
        'I',
        &["create"],
        "OPTIONS",
        "begin the connection that they describe, without a packet",
    ),
    verb(Verb::Add, 'A', &["add"], "OPTIONS", "the same; one that is there already is left, and no error"),
    verb(
        Verb::Update,
        'U',
        &["update"],
        "OPTIONS",
        "set mark, labels, timeout or status of the connections that they fit",
    ),
    verb(Verb::Help, 'h', &["help"], "", "this text"),
    verb(Verb::Version, 'V', &["version"], "", "the version that it speaks like"),
];

const fn verb(
    verb: Verb,
    short: char,
    long: &'static [&'static str],
    arguments: &'static str,
    help: &'static str,
) -> VerbRow {
    VerbRow { verb, short, long, arguments, help }
}

pub(crate) struct Row {
    pub(crate) opt: Opt,
    pub(crate) short: char,
    /// The first one stands in messages.
    pub(crate) long: &'static [&'static str],
    pub(crate) takes: Takes,
    /// Letters of the commands that it goes with.
    pub(crate) with: &'static str,
    /// What the argument is called in the help; empty: not shown there.
    pub(crate) argument: &'static str,
    pub(crate) help: &'static str,
}

const fn value(
    opt: Opt,
    short: char,
    long: &'static [&'static str],
    with: &'static str,
    argument: &'static str,
    help: &'static str,
) -> Row {
    Row { opt, short, long, takes: Takes::Argument, with, argument, help }
}

const fn maybe(
    opt: Opt,
    short: char,
    long: &'static [&'static str],
    with: &'static str,
    help: &'static str,
) -> Row {
    Row { opt, short, long, takes: Takes::Optional, with, argument: "[ADDRESS]", help }
}

/// In the order in which they are checked. The short names of those that have none are characters that no word has.
pub(crate) const TABLE: &[Row] = &[
    value(
        Opt::Src,
        's',
        &["src", "orig-src"],
        "LGDEIUA",
        "ADDRESS",
        "source of the original direction, or a network /LENGTH",
    ),
    value(Opt::Dst, 'd', &["dst", "orig-dst"], "LGDEIUA", "ADDRESS", "destination of the original direction"),
    value(Opt::ReplySrc, 'r', &["reply-src"], "LGDEIUA", "ADDRESS", "source of the reply direction"),
    value(Opt::ReplyDst, 'q', &["reply-dst"], "LGDEIUA", "ADDRESS", "destination of the reply direction"),
    value(
        Opt::Protocol,
        'p',
        &["protonum", "proto"],
        "LGDEIUA",
        "PROTOCOL",
        "tcp, udp, sctp, icmp, icmpv6, gre …, or a number",
    ),
    value(Opt::Timeout, 't', &["timeout"], "DIUA", "SECONDS", "of -I, -A, -U"),
    value(Opt::Status, 'u', &["status"], "LDIUA", "STATUS[,…]", "ASSURED, SEEN_REPLY, UNREPLIED …"),
    Row {
        opt: Opt::Zero,
        short: 'z',
        long: &["zero"],
        takes: Takes::Nothing,
        with: "L",
        argument: "",
        help: "",
    },
    value(Opt::EventMask, 'e', &["event-mask"], "E", "EVENT[,…]", "NEW, UPDATE, DESTROY or ALL"),
    value(Opt::TupleSrc, '\u{1}', &["tuple-src"], "", "ADDRESS", "of -I expect: whence it will come"),
    value(Opt::TupleDst, '\u{2}', &["tuple-dst"], "", "ADDRESS", "and where to"),
    value(Opt::MaskSrc, '\u{3}', &["mask-src"], "LDEU", "MASK", "of -s, with -I expect of --tuple-src"),
    value(Opt::MaskDst, '\u{4}', &["mask-dst"], "LDEU", "MASK", "of -d, with -I expect of --tuple-dst"),
    value(Opt::NatRange, 'a', &["nat-range"], "LGDFECSIUA", "", ""),
    value(Opt::Mark, 'm', &["mark"], "LDEIUA", "MARK[/MASK]", "the connection's mark"),
    value(Opt::Id, 'i', &["id"], "GDU", "ID", "as -o id shows it"),
    value(Opt::Family, 'f', &["family"], "LDFE", "FAMILY", "ipv4 or ipv6"),
    maybe(Opt::SrcNat, 'n', &["src-nat"], "LDEIUA", "whose source is translated"),
    maybe(Opt::DstNat, 'g', &["dst-nat"], "LDEIUA", "whose destination is translated"),
    value(
        Opt::Output,
        'o',
        &["output"],
        "LGDEU",
        "FORMAT[,…]",
        "extended, id, labels, timestamp, xml or save",
    ),
    value(Opt::Secmark, 'c', &["secmark"], "LE", "", ""),
    value(Opt::BufferSize, 'b', &["buffer-size"], "E", "", ""),
    maybe(Opt::AnyNat, 'j', &["any-nat"], "LE", "one of the two"),
    value(Opt::Zone, 'w', &["zone"], "LDEIA", "ZONE", "the connection's zone"),
    value(Opt::Label, 'l', &["label"], "LGDEU", "NAME[,…]", "that have these labels"),
    value(Opt::LabelAdd, '\u{5}', &["label-add"], "IUA", "NAME[,…]", "labels that are set"),
    Row {
        takes: Takes::Optional,
        ..value(
            Opt::LabelDel,
            '\u{6}',
            &["label-del"],
            "U",
            "[NAME[,…]]",
            "labels that are taken away; all of them",
        )
    },
    value(Opt::OrigZone, '\u{7}', &["orig-zone"], "LDEIA", "ZONE", "the zone of the original direction"),
    value(Opt::ReplyZone, '\u{8}', &["reply-zone"], "LDEIA", "ZONE", "the zone of the reply direction"),
];

/// What a protocol's options say of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Field {
    Sport,
    Dport,
    ReplySport,
    ReplyDport,
    State,
    Type,
    Code,
    Identifier,
    /// Of a connection that is to be, by direction.
    OrigTag,
    ReplyTag,
    /// Of a connection that is to be expected.
    MaskSport,
    MaskDport,
    TupleSport,
    TupleDport,
    /// Keys of GRE, by direction; and whose side a DCCP connection is begun from.
    SourceKey,
    DestinationKey,
    ReplySourceKey,
    ReplyDestinationKey,
    Role,
}

/// A protocol that `-p` has options for.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    pub(crate) options: &'static [&'static [(&'static str, Field)]],
    /// What `-G` needs besides addresses: message, and what must be there.
    pub(crate) needs: Needs,
}

impl Family {
    /// A field's name in messages.
    pub(crate) fn name_of(&self, field: Field) -> Option<&'static str> {
        self.options.iter().copied().flatten().find(|(_, found)| *found == field).map(|(name, _)| *name)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    /// Both of one direction, by the messages about the original and the reply.
    Pair(&'static [Field; 4], [&'static str; 2]),
    /// Each of the first two options.
    Each,
}

const PORTS: &[(&str, Field)] = &[
    ("sport", Field::Sport),
    ("dport", Field::Dport),
    ("orig-port-src", Field::Sport),
    ("orig-port-dst", Field::Dport),
    ("reply-port-src", Field::ReplySport),
    ("reply-port-dst", Field::ReplyDport),
    ("mask-port-src", Field::MaskSport),
    ("mask-port-dst", Field::MaskDport),
    ("tuple-port-src", Field::TupleSport),
    ("tuple-port-dst", Field::TupleDport),
];

const STATE: &[(&str, Field)] = &[("state", Field::State)];

/// Tags are known to no filter.
const TAGS: &[(&str, Field)] = &[("orig-vtag", Field::OrigTag), ("reply-vtag", Field::ReplyTag)];

const ICMP: &[(&str, Field)] =
    &[("icmp-type", Field::Type), ("icmp-code", Field::Code), ("icmp-id", Field::Identifier)];

const ICMPV6: &[(&str, Field)] =
    &[("icmpv6-type", Field::Type), ("icmpv6-code", Field::Code), ("icmpv6-id", Field::Identifier)];

/// Compared with nothing, as by the recorded command.
const KEYS: &[(&str, Field)] = &[
    ("srckey", Field::SourceKey),
    ("dstkey", Field::DestinationKey),
    ("orig-key-src", Field::SourceKey),
    ("orig-key-dst", Field::DestinationKey),
    ("reply-key-src", Field::ReplySourceKey),
    ("reply-key-dst", Field::ReplyDestinationKey),
    ("mask-key-src", Field::MaskSport),
    ("mask-key-dst", Field::MaskDport),
    ("tuple-key-src", Field::TupleSport),
    ("tuple-key-dst", Field::TupleDport),
];

const ROLE: &[(&str, Field)] = &[("role", Field::Role)];

const BOTH_PORTS: Needs = Needs::Pair(
    &[Field::Sport, Field::Dport, Field::ReplySport, Field::ReplyDport],
    ["`--sport' and `--dport'", "`--reply-src-port' and `--reply-dst-port'"],
);

const BOTH_KEYS: Needs = Needs::Pair(
    &[Field::SourceKey, Field::DestinationKey, Field::ReplySourceKey, Field::ReplyDestinationKey],
    ["`--srckey' and `--dstkey'", "`--reply-src-key' and `--reply-dst-key'"],
);

pub(crate) const PROTOCOLS: &[Family] = &[
    Family { name: "tcp", number: 6, options: &[PORTS, STATE], needs: BOTH_PORTS },
    Family { name: "udp", number: 17, options: &[PORTS], needs: BOTH_PORTS },
    Family { name: "sctp", number: 132, options: &[PORTS, STATE, TAGS], needs: BOTH_PORTS },
    Family { name: "udplite", number: 136, options: &[PORTS], needs: BOTH_PORTS },
    Family { name: "dccp", number: 33, options: &[PORTS, STATE, ROLE], needs: BOTH_PORTS },
    Family { name: "gre", number: 47, options: &[KEYS], needs: BOTH_KEYS },
    Family { name: "icmp", number: 1, options: &[ICMP], needs: Needs::Each },
    Family { name: "icmpv6", number: 58, options: &[ICMPV6], needs: Needs::Each },
];

/// Other protocols by the names of the protocols database (IANA).
pub(crate) const OTHERS: &[(&str, u8)] = &[
    ("ip", 0),
    ("igmp", 2),
    ("ipencap", 4),
    ("egp", 8),
    ("ipv6", 41),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("ipip", 94),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
];

/// The other name of `SYN_SENT2`, which the kernel never has.
pub(crate) const LISTEN: &str = "LISTEN";

/// Whether `--state` knows it.
pub(crate) fn is_tcp_state(name: &str) -> bool {
    name == LISTEN || TcpState::ALL.iter().any(|state| state.name() == name)
}

pub(crate) fn is_sctp_state(name: &str) -> bool {
    SctpState::ALL.iter().any(|state| state.name() == name)
}

pub(crate) const DCCP_STATES: &[&str] = &[
    "NONE", "REQUEST", "RESPOND", "PARTOPEN", "OPEN", "CLOSEREQ", "CLOSING", "TIMEWAIT", "IGNORE", "INVALID",
];
