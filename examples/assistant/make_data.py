# ruff: noqa: E501  (what people say is a line)
"""Makes the data of this example: what a lift maintenance company knows, and how its customers complain.

    python examples/assistant/make_data.py --output assistant

Writes `conversations` (train.jsonl, held-out.jsonl: a complaint, and to which team it goes), `documents` to look
answers up in, and `exam` (the same complaints as a task for the stage `evaluate`). All written for this example;
the company does not exist. Held-out complaints are worded otherwise than those to learn from.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

TEAMS = ("门机组", "曳引组", "电气组", "客服组")
# For each team: what is wrong, to learn from; the same worded otherwise, held out.
COMPLAINTS: dict[str, tuple[list[str], list[str]]] = {
    "门机组": (
        [
            "电梯门关不上",
            "门开到一半又合上了",
            "厅门有异响",
            "门缝夹了东西打不开",
            "轿门来回开关",
            "门开得很慢",
            "关门时撞人",
            "门下面的槽卡住了",
        ],
        ["到了楼层门不开", "门合拢之后留一条缝", "开门的时候吱吱叫", "门总是反复开合"],
    ),
    "曳引组": (
        [
            "运行时抖得厉害",
            "下行的时候有失重感",
            "钢丝绳有断丝",
            "机房主机声音很大",
            "停层不平有台阶",
            "刹车有焦味",
            "上行时晃动",
            "主机漏油",
        ],
        ["坐在里面晃得心慌", "轿厢停得比地面高一截", "机房里主机嗡嗡响", "钢丝绳看着起毛了"],
    ),
    "电气组": (
        [
            "按钮按了不亮",
            "轿厢里的灯不亮",
            "显示屏黑了",
            "报警电话打不通",
            "风扇不转",
            "刷卡没有反应",
            "控制柜跳闸",
            "外呼按键失灵",
        ],
        ["里面黑灯瞎火的", "按楼层没反应", "楼层显示乱码", "刷了卡也不让上"],
    ),
    "客服组": (
        [
            "想要一份维保合同",
            "上个月的发票没收到",
            "年检什么时候做",
            "想换一个付款方式",
            "对师傅的态度不满意",
            "咨询加装电梯的费用",
            "要改联系人电话",
            "账单金额不对",
        ],
        ["发票抬头开错了", "问一下年检时间", "合同到期怎么续", "加装一部大概多少钱"],
    ),
}
WHERE = ("三号楼", "东门", "一单元", "地下车库", "住院部", "B座", "老楼", "南区")
ASKED = "{where}：{what}。\n该派哪个组？"
DOCUMENTS = [
    ("门", "门机每半个月清一次地坎槽，门滚轮磨损超过两毫米就要更换。"),
    ("钢丝绳", "曳引钢丝绳在一个捻距内断丝超过规定数目时必须更换，更换后要做静载试验。"),
    ("困人", "有人被困时，接到电话后三十分钟内到场，先安抚乘客，再由两人配合盘车放人。"),
    ("年检", "定期检验每年一次，到期前一个月由维保单位提出申请，检验合格才能继续使用。"),
    ("发票", "发票在付款后五个工作日内寄出，抬头有误可在当月更换。"),
    ("加装", "旧楼加装一部六层电梯，井道、设备和检验合计约四十五万元，工期四个月。"),
]


def conversation(what: str, team: str, draw: random.Random) -> dict[str, Any]:
    asked = ASKED.format(where=draw.choice(WHERE), what=what)
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": team}]}


def conversations(held_out: bool, many: int, seed: int) -> list[dict[str, Any]]:
    """`many` conversations, as many of each team, in an order of the seed's."""
    draw = random.Random(f"{seed}{held_out}")
    found = [
        conversation(draw.choice(COMPLAINTS[team][held_out]), team, draw)
        for team in TEAMS
        for _ in range(many // len(TEAMS))
    ]
    draw.shuffle(found)
    return found


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def write_exam(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The complaints as a definition that `lm_eval` reads, in the words of the model's chat template."""
    asked = [
        {"asked": row["messages"][0]["content"], "team": TEAMS.index(row["messages"][1]["content"])}
        for row in rows
    ]
    write(folder / "triage.jsonl", asked)
    definition = {
        "task": "triage",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "triage.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "<|im_start|>user\n{{asked}}<|im_end|>\n<|im_start|>assistant\n",
        "doc_to_choice": list(TEAMS),
        "doc_to_target": "{{team}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    (folder / "triage.yaml").write_text(json.dumps(definition, ensure_ascii=False, indent=1), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=128, help="conversations to learn from")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    held_out = conversations(True, 64, args.seed)
    write(args.output / "conversations" / "train.jsonl", conversations(False, args.examples, args.seed))
    write(args.output / "conversations" / "held-out.jsonl", held_out)
    write_exam(args.output / "exam", held_out)
    documents = [
        {"id": name, "text": text, "source": f"维保手册·{name}", "date": "2026-01-01"}
        for name, text in DOCUMENTS
    ]
    write(args.output / "documents" / "documents.jsonl", documents)


if __name__ == "__main__":
    main()
