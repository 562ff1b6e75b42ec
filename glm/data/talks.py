"""Conversations: records of turns, and the text "Human:…\\nAssistant:…" that a model reads them as. Standard library
only."""

import re

from glm.data.validation import Unclear

HUMAN, ASSISTANT = "Human:", "\nAssistant:"
# Lists of turns, of which each says who speaks and what.
TURNS, SPEAKER, TEXT = ("conversations", "messages"), ("from", "role"), ("value", "content")
SYSTEM = "system"
SPEAKERS = {"human": "Human", "user": "Human", "assistant": "Assistant", "gpt": "Assistant", "system": SYSTEM}
ROLE = re.compile(r"\s*(?<![A-Za-z])(Human|Assistant)[:：]")
TALK = re.compile(r"\A\s*Human[:：]|(?<![A-Za-z])Human[:：].*Assistant[:：]\s*\Z", re.DOTALL)


def talk_of_turns(record: dict) -> dict:
    """A record whose "conversations" or "messages" are a list of {"from", "value"} or {"role", "content"} with the
    fields "instruction", the talk up to where the assistant is to speak, "output", its last turn if that ends the talk,
    and "system", what stands before the talk, if there is any. Raises Unclear."""
    key = next((key for key in TURNS if isinstance(record.get(key), list)), None)
    if "instruction" in record or key is None:
        return record
    turns = [speaker_and_text(turn, f"{key}[{i}]") for i, turn in enumerate(record[key])]
    begin = next((i for i, (name, _) in enumerate(turns) if name != SYSTEM), len(turns))
    system, turns = [text for _, text in turns[:begin]], turns[begin:]
    if not turns:
        raise Unclear(f"{key} has no turn of a human or an assistant")
    if (late := next((i for i, (name, _) in enumerate(turns) if name == SYSTEM), None)) is not None:
        raise Unclear(f"{key}[{begin + late}] is a system turn behind others")
    answered = turns[-1][0] == "Assistant"
    history = turns[: -1 if answered else None]
    talk = "\n".join(f"{name}:{text}" for name, text in history) + ASSISTANT
    found = {**record, "instruction": talk, "output": turns[-1][1] if answered else ""}
    return {**found, SYSTEM: "\n".join(system)} if system else found


def speaker_and_text(turn, place: str) -> tuple[str, str]:
    """("Human", "Assistant" or SYSTEM, what they say) of one turn. Raises Unclear."""
    if not isinstance(turn, dict):
        raise Unclear(f"{place} is no object with role and content")
    speaker = next((turn[key] for key in SPEAKER if key in turn), None)
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        told = f"{speaker!r:.40}" if speaker is not None else "nobody"
        raise Unclear(f"{place} is said by {told}, who is none of {', '.join(SPEAKERS)}")
    text = next((turn[key] for key in TEXT if key in turn), None)
    if not isinstance(text, str):
        raise Unclear(f"{place} has no text: {' or '.join(TEXT)} must be a string")
    return SPEAKERS[speaker], text


def human_turns(talk: str) -> tuple[tuple[int, int], ...]:
    """Where each turn of the human begins in a talk, and where the words that say so end."""
    return tuple((turn.start(1), turn.end()) for turn in ROLE.finditer(talk) if turn.group(1) == "Human")


def continue_talk(talk: str, more: str) -> tuple[str, str]:
    """A talk and its ending: unchanged if that is "Assistant:" and there is no more to say, else completed."""
    last = list(ROLE.finditer(talk))[-1]
    if last.group(1) == "Human":
        return talk + more, ASSISTANT
    if not talk[last.end() :].strip():
        return talk[: last.start()] + more, talk[last.start() :]
    return (f"{talk}\n{HUMAN}{more}", ASSISTANT) if more.strip() else (talk, "")
