//! Reads a token and prints it again, without std: exits with 0 if it is the same.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::ToString as _;
use core::ffi::c_int;
use core::panic::PanicInfo;
use onemirror_protocol::Token;

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[link(name = "c")]
unsafe extern "C" {}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    const TOKEN: &str = "7:site-a:open";
    match TOKEN.parse::<Token>() {
        Ok(token) if token.to_string() == TOKEN => 0,
        Ok(_) | Err(_) => 1,
    }
}
