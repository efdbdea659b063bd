# ruff: noqa: E501  (a list of words is a line)
"""Articles of many kinds, and furniture in words that no rule was made from, to test the corpus stage on.

Knows what lists, recipes, tables, code, forums and the like look like. The words are ours. Whoever mends the
stage must not look here for lines to add to its seeds.
"""

import random
from collections.abc import Callable

from articles import ARTICLES
from noise import Noise

Article = tuple[str, list[str]]

CHINESE = Noise(
    spam=(
        "天海翼种子_深爱五月激情网_丁丁影院_日本爽快片_色先锋资源站",
        "大赢家比分网|捷豹彩票|必发指数|皇冠足球即时走势|王中王铁算盘特码诗",
        "葡京国际娱乐场开户即送三十八，老虎机爆率公开，存取无忧。",
        "少妇的丰满3中文字幕-护士奶头又白又大-97碰碰在线看视频免费",
        "专业追款讨债 婚外情调查 手机监听软件 迷药批发",
    ),
    words=[
        "深爱",
        "五月",
        "丁丁",
        "色先锋",
        "爽快",
        "碰碰",
        "比分",
        "特码",
        "王中王",
        "爆率",
        "必发",
        "奶头",
        "种子",
        "即时",
    ],
    navigation=(
        "门户 导读 广播 群组 家园 排行榜",
        "主页 > 农业科技 > 果树栽培 > 阅读",
        "要闻播报 | 县域 | 法院 | 三农 | 图文直播 | 数字报",
        "课程中心 名师 题库 直播课 学习卡 我的班级",
        "购物首页 分类浏览 品牌馆 试用中心 积分商城",
    ),
    facts=(
        "2016-12-29 17:20:55 阅读 ( 1893 )",
        "编辑：小田 2011-4-7 稿源：县广播站",
        "浏览数：266 | 收藏数：5 | 评分：★★★☆",
        "丁香树下 于 2014-02-28 21:13 写道",
        "[大字体] [小字体] [关灯] [护眼]",
    ),
    advertisements=(
        "打开APP阅读，体验更流畅",
        "剩余内容仅对订阅用户开放，点此解锁",
        "年终大促火热进行中，戳图直达会场",
        "本文配有语音版，关注服务号即可收听",
    ),
    markers=("好文推荐", "相关资讯", "大家感兴趣的话题", "站长精选", "最近更新", "同城热帖"),
    teasers=(
        "柠檬水什么时候喝最好",
        "这条高速终于要通车了",
        "女排姑娘赛后落泪",
        "旧沙发翻新只花了八十块",
        "二胎家庭的收纳术",
        "银行卡丢了第一步做什么",
        "青年歌手巡演最后一站定档",
        "[专题] 聚焦春耕",
        "全国铁路今起调图",
        "一觉醒来脖子疼怎么缓解",
        "盘点那些消失的老字号",
        "他靠养蜂年入百万",
    ),
    comments=("吃瓜群众路过", "这个必须顶", "楼主加油，等更新", "评论功能已关闭", "点击登录，参与讨论"),
    footer=(
        "某某日报社主管主办 电子版 未经许可不得镜像",
        "发帖 回复 返回列表",
        "上一篇：清明祭扫须知",
        "下一篇：暂无",
        "投诉请拨打 000-00000000 或发送至 info(at)example.com",
        "本页面由程序自动采集生成，版权归原网站所有",
        "苏ICP备00000000号 苏公网安备 00000000000000号",
        "常见问题 | 服务条款 | 加盟合作 | 意见反馈",
        "转载说明：欢迎转发朋友圈，公众号转载请后台留言",
    ),
)
ENGLISH = Noise(
    spam=("top rated bookmakers, roulette strategy, free chips, mobile pokies no download",),
    words=[
        "roulette",
        "chips",
        "bookmakers",
        "pokies",
        "viagra",
        "payout",
        "hotties",
        "webcams",
        "refinance",
    ],
    navigation=("Front Page | Nation | Weather | Obituaries | Classifieds", "Home » Gardening » Vegetables"),
    facts=("Wed 11 Sep 2013 14:05 EDT", "by Ruth P. | Filed in: Garden | 7 responses", "Est. reading 3 min"),
    advertisements=(
        "Support independent journalism from as little as $2",
        "Advertisement - scroll to continue",
    ),
    markers=("Don't miss", "Readers also liked", "Elsewhere on the site"),
    teasers=(
        "Ten towns to visit this autumn",
        "Actor spotted at local diner",
        "The truth about cold showers",
    ),
    comments=("Love this!", "Flag as inappropriate", "Sort by: Newest"),
    footer=(
        "All content on this site is protected; reproduction is prohibited.",
        "Join 12,000 readers and get our Friday letter",
        "About | Masthead | Corrections | Donate",
        "Change region: Canada (English)",
    ),
)


def _sentences(draw: random.Random, many: int, is_english: bool = False) -> str:
    texts = [text for title, texts in ARTICLES.values() if title.isascii() == is_english for text in texts]
    mark = ". " if is_english else "。"
    parts = [part for text in texts for part in text.rstrip(mark).split(mark)]
    return mark.join(draw.sample(parts, many)) + mark.strip()


def essay(draw: random.Random) -> Article:
    parts = [_sentences(draw, draw.randint(2, 5)) for _ in range(draw.randint(3, 7))]
    return "随笔一则", ["一、说起", *parts[:2], "二、再说", *parts[2:]]


def goods(draw: random.Random) -> Article:
    facts = [
        "产品名称：折叠梯",
        "踏板数量：四步",
        "展开高度：112 公分",
        "自重：3.6 公斤",
        "最大承重：150 公斤",
        "主要材料：航空铝",
        "表面处理：磨砂氧化",
        "适用场所：家庭、仓库",
        "执行标准：GB/T 12142",
        "备件：脚垫四只",
    ]
    said = [
        "四步折叠梯，合起来只有五公分厚，门后就能放下。",
        "踏板加宽，站上去不硌脚，擦窗换灯都用得着。",
        "收到后请先检查锁扣是否完好，再展开使用。",
    ]
    return "家用折叠梯", [said[0], *draw.sample(facts, draw.randint(6, 10)), *said[1:], _sentences(draw, 2)]


def dish(draw: random.Random) -> Article:
    things = ["南瓜 一小块", "糙米 80克", "核桃仁 五六颗", "清水 八百毫升", "蜂蜜 一勺", "枸杞 十几粒"]
    steps = [
        "糙米提前泡一夜，沥干水",
        "南瓜去皮切丁，上锅蒸软",
        "米和水入锅，大火煮沸转小火",
        "四十分钟后倒入南瓜泥搅匀",
        "关火前加核桃碎，略焖片刻",
    ]
    numbered = [f"{number}{draw.choice('.、')}{step}" for number, step in enumerate(steps, 1)]
    return "南瓜糙米粥", [
        "天冷的时候，早上一碗热粥最养人，这道粥不用看火，做起来省心。",
        "原料",
        *things,
        "制作过程",
        *numbered,
        "小窍门：南瓜蒸过再下锅，粥会更稠，颜色也更好看。",
        _sentences(draw, 2),
    ]


def tutorial(draw: random.Random) -> Article:
    return "定时备份文件夹", [
        "用一个小脚本加上计划任务，就可以每天把文件夹备份到另一块硬盘。",
        "先写脚本 backup.sh：",
        "#!/bin/bash",
        "src=$HOME/docs",
        "dst=/mnt/disk2/$(date +%F)",
        'rsync -a --delete "$src/" "$dst/"',
        "给它执行权限，然后试一次：",
        "chmod +x backup.sh",
        "./backup.sh && ls /mnt/disk2",
        "如果目录里出现了当天的日期，就说明脚本没有问题。",
        "接着编辑计划任务：",
        "crontab -e",
        "30 2 * * * /home/me/backup.sh",
        "前两个数字是分钟和小时，所以它会在每天凌晨两点半运行。",
        _sentences(draw, 2),
    ]


def entry(draw: random.Random) -> Article:
    box = [
        "中文名称：雨蛙",
        "体长：约四厘米",
        "栖息环境：稻田、池塘",
        "活动时间：夜间",
        "食物：昆虫",
        "分布：长江以南",
    ]
    return "雨蛙", [
        "雨蛙是一类小型蛙，常在雨后鸣叫，因此得名，指端有吸盘，能在叶片上攀爬。",
        *draw.sample(box, draw.randint(4, 6)),
        "外形",
        "背面多为绿色，光滑无疣，体侧有黄色或白色的细纹，腹面颜色较浅。",
        "繁殖",
        "每年四月到六月产卵，卵粒附着在水草上，大约十天孵出蝌蚪。",
        "名称由来",
        _sentences(draw, 2),
        "保护现状",
        _sentences(draw, 3),
    ]


def statistics(draw: random.Random) -> Article:
    rows = [
        f"{draw.choice(('东乡', '西塘', '南浦', '北坪'))}{number}组  {draw.randint(80, 900)}  4{number}.{number}"
        for number in range(1, 9)
    ]
    return "水稻产量调查", [
        _sentences(draw, 3),
        "表一 各组收成",
        "组别  亩数  单产",
        *rows,
        _sentences(draw, 3),
    ]


def thread(draw: random.Random) -> Article:
    posts = [
        "我的自行车骑起来后轮老是响，空转却没声音，哪位遇到过？",
        "先看看是不是刹车皮蹭到轮圈了，我那辆就是，调一下就好",
        "也可能是轴承缺油。把后轮拆下来，转动轴听听，沙沙响就该上油了。",
        "拆的时候记得拍照，不然装回去少垫片",
        "试过了，是辐条松了两根，紧好以后就不响了，多谢各位。",
    ]
    return "后轮异响求助", [*posts, _sentences(draw, 2)]


def verses(draw: random.Random) -> Article:
    lines = ["溪头新柳弄轻烟", "燕子归来又一年", "莫问渔翁何处去", "满船明月下平川"]
    body = lines if draw.random() < 0.5 else [f"{lines[0]}，{lines[1]}。", f"{lines[2]}，{lines[3]}。"]
    return "溪行", [*body, "今译", _sentences(draw, 2), "读后", _sentences(draw, 4)]


def story(draw: random.Random) -> Article:
    talk = [
        "“灯怎么灭了？”",
        "“别出声。”阿福压低嗓子。",
        "“有人？”",
        "“你听。”",
        "门外果然有脚步，一下，又一下，停在台阶上。",
    ]
    return "第九回 夜访", [
        _sentences(draw, 2),
        *talk,
        _sentences(draw, 3),
        "“进来吧。”老掌柜叹道。",
        _sentences(draw, 2),
    ]


def answers(draw: random.Random) -> Article:
    return "房屋漏水谁负责", [
        "楼上漏水把我家天花板泡了，对方不肯修，应该找谁？",
        "律师回答：应当先弄清漏水的原因。属于专有部分的，由楼上业主承担维修和赔偿。",
        "如果是公共管道破裂，则由物业公司负责维修，费用可以从维修资金中支出。",
        "建议您拍照留存证据，协商不成再向法院起诉。",
        _sentences(draw, 3),
    ]


def wrapped(draw: random.Random) -> Article:
    """Prose whose lines were broken at a fixed width."""
    text = "".join(_sentences(draw, 4) for _ in range(4))
    return "旧书摘抄", [text[start : start + 38] for start in range(0, len(text), 38)]


def howto(draw: random.Random) -> Article:
    return "Mending a bicycle tyre", [
        "A puncture is easy to mend at the roadside if you carry four small things.",
        "You will need",
        "* two tyre levers",
        "* a patch kit",
        "* a pump",
        "Find the hole by pumping up the tube and listening.",
        "Roughen the rubber, spread the glue thinly and wait until it is dull.",
        '"How long?" people ask. About as long as it takes to eat an apple.',
        "Press the patch on hard.",
        "Q: Can I ride on it at once?",
        "A: Yes, as soon as the tyre is back on the rim.",
        _sentences(draw, 3, is_english=True),
        _sentences(draw, 2, is_english=True),
    ]


KINDS: dict[str, Callable[[random.Random], Article]] = {
    kind.__name__: kind
    for kind in (
        essay,
        goods,
        dish,
        tutorial,
        entry,
        statistics,
        thread,
        verses,
        story,
        answers,
        wrapped,
        howto,
    )
}


def furniture(kind: str) -> Noise:
    return ENGLISH if kind == "howto" else CHINESE
