//! The process that makes the calls, alone: for the test that watches its memory.

fn main() {
    let input = std::io::stdin().lock();
    if let Err(error) = onemirror_rbd::serve(input, std::io::stdout()) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
