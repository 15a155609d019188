//! What an operator's word on where an image belongs is refused for.

use super::*;
use alloc::format;
use alloc::vec::Vec;

fn takes_up(observation: Observation, rule: Rule, says: &'static str) -> Row {
    let Judgement { decision, .. } = gate().judge_take_up(&observation);
    let Decision::Refuse { refusal, .. } = decision else { panic!("not refused: {says}") };
    refused(refusal, rule, says)
}

fn rehomes(observation: Observation, rule: Rule, says: &'static str) -> Row {
    let Here::Mirrored(copy) = &observation.here else { panic!("not mirrored: {says}") };
    refused(hinders_rehome(&observation, copy, B, A, B).unwrap(), rule, says)
}

fn refused(refusal: Refusal, rule: Rule, says: &'static str) -> Row {
    Row { rule, says, judged: (refusal.rule, format!("refuse: {refusal}")), advice: Some(refusal.advice) }
}

pub(super) fn rehome_rows() -> Vec<Row> {
    use Rule::*;
    let nowhere = |token: &str| pair(non_primary(token), non_primary(token), inactive());
    vec![
        takes_up(
            pair(primary("3:site-a:open"), non_primary("3:site-a:open"), inactive()),
            RehomeChanged,
            "refuse: one-0-2-0 changed just now; try again",
        ),
        takes_up(
            Observation { used_here_by: Some(9), ..nowhere("4:site-b:x") },
            RehomeInUse,
            "refuse: one-0-2-0 is in use here; the gate of its VM takes it",
        ),
        takes_up(
            pair(non_primary("4:site-a:x"), non_primary("4:site-a:x"), active()),
            BootingThere,
            "refuse: one-0-2-0 is claimed on site-b: VM 0 is RUNNING; see that rbd-mirror runs on both sites and try again; the copy on site-b may be the newer one, so try there, too",
        ),
        takes_up(
            pair(
                Copy { resync: Resync::Asked, ..non_primary("4:site-b:x") },
                non_primary("4:site-b:x"),
                inactive(),
            ),
            RehomeNoProof,
            "refuse: one-0-2-0 is primary on neither site, and the copy here does not prove that it has everything; see that rbd-mirror runs on both sites and try again; the copy on site-b may be the newer one, so try there, too",
        ),
        rehomes(
            nowhere("4:site-b:x"),
            RehomePrimaryNowhere,
            "refuse: one-0-2-0 is primary on neither site; on site-b: onemirror rehome --image one/one-0-2-0",
        ),
        rehomes(
            pair(non_primary("3:site-b:open"), primary("3:site-b:open"), inactive()),
            RehomeNotPrimary,
            "refuse: one-0-2-0 is not primary here; on site-b: onemirror rehome --image one/one-0-2-0 --to site-b",
        ),
        rehomes(
            pair(primary("?"), non_primary("3:site-a:open"), inactive()),
            RehomeTokenUnread,
            "refuse: one-0-2-0 has a handoff token that is not understood here; see what a boot would do (onemirror plan), and put that right first",
        ),
    ]
}
