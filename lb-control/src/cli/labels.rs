//! Names of connections' labels, as this machine knows them: a line each of `/etc/xtables/connlabel.conf`, `BIT NAME`.
//!
//! A name has letters of ASCII, digits, `-` and blanks within; of two names of a bit, or two bits of a name, the first counts; what is no such line is passed
//! over. Recorded from iptables 1.8.9 and conntrack 1.4.7, which read it with the same library.

use std::fs;
use std::sync::OnceLock;

const PATH: &str = "/etc/xtables/connlabel.conf";

/// What a file says.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LabelNames(Vec<(u16, String)>);

impl LabelNames {
    /// Of this machine, read once. Where there is no such file no label has a name.
    pub fn of_system() -> &'static LabelNames {
        static NAMES: OnceLock<LabelNames> = OnceLock::new();
        NAMES.get_or_init(|| LabelNames::read(&fs::read_to_string(PATH).unwrap_or_default()))
    }

    pub fn read(text: &str) -> LabelNames {
        let mut names = LabelNames::default();
        for (bit, name) in text.lines().filter_map(line) {
            if names.name(bit).is_none() && names.bit(name).is_none() {
                names.0.push((bit, name.to_owned()));
            }
        }
        names
    }

    /// Of the label of this name.
    pub fn bit(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|(_, known)| known == name).map(|&(bit, _)| bit)
    }

    pub fn name(&self, bit: u16) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == bit).map(|(_, name)| name.as_str())
    }
}

fn line(line: &str) -> Option<(u16, &str)> {
    let line = line.trim_start();
    let end = line.find(char::is_whitespace)?;
    let (number, name) = (&line[..end], line[end..].trim());
    let bit = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16),
        None if number.len() > 1 && number.starts_with('0') => u16::from_str_radix(number, 8),
        None => number.parse(),
    };
    let bit = bit.ok().filter(|&bit| bit < u16::MAX)?;
    let is_name = |name: &str| name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b' '));
    (!name.is_empty() && is_name(name)).then_some((bit, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded: which of these lines iptables takes a name from.
    const FILE: &str = "# comment
0\tzero
1 eth0-in
2\t\"quoted name\"
3 three four
 4 lead
5 dup
6 dup
7 under_score
127 last
128 toobig
0x10 hex
9 a,b
x bad
10

11 5
12 x\"y
13 -dash
14 UPPER # comment
15 abc#def
16 \u{e9}
5 dup5
65535 toofar
70000 further
20  spaced  
21 tab\tbed
-1 neg
22 -
23 zero
";

    #[test]
    fn names_are_those_that_iptables_reads() {
        let names = LabelNames::read(FILE);
        let known = [
            (0, "zero"),
            (1, "eth0-in"),
            (3, "three four"),
            (4, "lead"),
            (5, "dup"),
            (127, "last"),
            (128, "toobig"),
            (16, "hex"),
            (11, "5"),
            (13, "-dash"),
            (20, "spaced"),
            (22, "-"),
        ];
        assert_eq!(names.0, known.map(|(bit, name)| (bit, name.to_owned())));
        assert_eq!((names.bit("last"), names.bit("6"), names.name(6)), (Some(127), None, None));
    }
}
