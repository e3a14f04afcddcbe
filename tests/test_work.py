from codesign.work import Attention, Contraction, Operand


def test_contraction_counts_multiply_accumulates_of_every_batch():
    side = Operand(64 * 32, "float16")
    work = Contraction(kind="MatMul", reads=(side, side), writes=(side,), batch=2, m=64, n=16, k=32, dtype="float16")
    assert work.macs == 2 * 64 * 16 * 32
    assert work.bytes == 3 * 64 * 32 * 2


def test_attention_counts_both_products_of_every_head():
    operand = Operand(8, "float32")
    work = Attention(
        kind="Attention", reads=(operand,) * 3, writes=(operand,), batch=1, heads=4, kv_heads=2,
        query_length=8, kv_length=16, head_dim=32, value_dim=64, dtype="float32",
    )  # fmt: skip
    assert work.macs == 4 * 8 * 16 * (32 + 64)


def test_sub_byte_operands_are_packed():
    assert Operand(3, "int4").bytes == 2
