#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| onemirror_fuzz::hook_stdin::check(data));
