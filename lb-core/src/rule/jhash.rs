//! The hash by which kernels of a cluster agree on whose a packet is: Bob Jenkins' lookup3 of whole words (`hashword`, in the public domain), as the
//! kernel's `jhash` of the same words is.

/// Of at least one word.
pub(super) fn of_words(words: &[u32], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add((words.len() as u32) << 2).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = words;
    while let [first, second, third, more @ ..] = rest {
        a = a.wrapping_add(*first);
        b = b.wrapping_add(*second);
        c = c.wrapping_add(*third);
        rest = more;
        if rest.is_empty() {
            return finish(a, b, c);
        }
        a = (a.wrapping_sub(c)) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = (b.wrapping_sub(a)) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = (c.wrapping_sub(b)) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = (a.wrapping_sub(c)) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = (b.wrapping_sub(a)) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = (c.wrapping_sub(b)) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
    }
    a = a.wrapping_add(rest.first().copied().unwrap_or(0));
    b = b.wrapping_add(rest.get(1).copied().unwrap_or(0));
    finish(a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// A hash as a number below `of`.
pub(super) fn below(hash: u32, of: u32) -> u32 {
    ((u64::from(hash) * u64::from(of)) >> 32) as u32
}
