"""Programs: text with places that the model fills in, in order, and branches that run side by side.

    p = Program(llm, temperature=0)
    p += "Q: Is the sea salty?\\nA: " + select("answer", ["yes", "no"]) + "\\nBecause "
    for branch in (branches := p.fork(3)):
        branch += gen("why", max_tokens=40, stop=".", temperature=1)
    print(p["answer"], [branch["why"] for branch in branches])

Adding returns at once; reading waits. Programs that share a beginning share its computation (the engine's prefix tree),
and whatever runs at the same time runs in one batch.
"""

from halfbyte.program.parts import gen, select
from halfbyte.program.program import Program

__all__ = ["Program", "gen", "select"]
