//! Server ID and nonce as an operator's key hides them in a connection ID, and back (draft-ietf-quic-load-balancers-21 §5.4), half a byte by half a byte.

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

const BLOCK: usize = 16;

/// By a key of 32 hexadecimal digits.
pub(in crate::reference) fn encipher(key: &str, plain: &[u8]) -> Vec<u8> {
    let cipher = cipher(key);
    match <[u8; BLOCK]>::try_from(plain) {
        Ok(block) => {
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            block.to_vec()
        }
        Err(_) => cover(&cipher, plain, [1, 2, 3, 4]),
    }
}

/// What was hidden so.
pub(in crate::reference) fn decipher(key: &str, hidden: &[u8]) -> Vec<u8> {
    let cipher = cipher(key);
    match <[u8; BLOCK]>::try_from(hidden) {
        Ok(block) => {
            let mut block = block.into();
            cipher.decrypt_block(&mut block);
            block.to_vec()
        }
        // Each pass undoes itself.
        Err(_) => cover(&cipher, hidden, [4, 3, 2, 1]),
    }
}

fn cipher(key: &str) -> Aes128 {
    let digits: Vec<u8> = key.chars().map(|digit| digit.to_digit(16).expect("hexadecimal") as u8).collect();
    let bytes = <[u8; BLOCK]>::try_from(packed(&digits)).expect("32 digits");
    Aes128::new(&bytes.into())
}

/// Passes in which one half covers the other: the left one the right one when the number is odd.
fn cover(cipher: &Aes128, bytes: &[u8], passes: [u8; 4]) -> Vec<u8> {
    let mut left: Vec<u8> = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    let mut right = left.split_off(bytes.len());
    // The half of a byte that an odd number is short of: behind the left half, before the right one.
    let missing = vec![0; bytes.len() % 2];
    for pass in passes {
        let by_left = pass % 2 == 1;
        let mut block =
            packed(&if by_left { [&left[..], &missing] } else { [&missing[..], &right] }.concat());
        block.resize(BLOCK - 2, 0);
        block.extend([bytes.len() as u8, pass]);
        let mut block = <[u8; BLOCK]>::try_from(block).expect("a block").into();
        cipher.encrypt_block(&mut block);
        let covers = block.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        if by_left {
            right.iter_mut().zip(covers.skip(missing.len())).for_each(|(half, cover)| *half ^= cover);
        } else {
            left.iter_mut().zip(covers).for_each(|(half, cover)| *half ^= cover);
        }
    }
    packed(&[left, right].concat())
}

/// Halves of bytes as bytes.
fn packed(halves: &[u8]) -> Vec<u8> {
    halves.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
