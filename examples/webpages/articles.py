# ruff: noqa: E501  (prose: a paragraph is a line)
"""The prose inside the raw pages: written for this example, free to use under the repository's licence."""

ARTICLES: dict[str, tuple[str, list[str]]] = {
    "quatrain": (
        "绝句为什么只有四句",
        [
            "绝句是最短的格律诗，五言二十个字，七言二十八个字。篇幅这样小，诗人没有地方铺陈，只能把一个瞬间交给读者，让没有写出来的东西在字句之外慢慢展开。",
            "四句之间通常有起、承、转、合的分工。第一句把人带到一个地方，第二句接着说下去，第三句忽然换一个角度，第四句收住，却又留下余味。好的第三句往往是全诗的关键，前面安静，后面才有回声。",
            "平仄和押韵并不是为了难住写诗的人。声音有了高低，句子就有了呼吸；韵脚在第二句和第四句相遇，读者便知道这首诗已经回到了家。",
            "今天读绝句，不妨先不看注释，只把它念出来。念得多了，节奏会自己留在耳朵里，意思也会跟着清楚起来。",
        ],
    ),
    "moon": (
        "唐诗里的月亮",
        [
            "唐代诗人写月亮，很少只是写天上的那一轮光。月亮照着长安，也照着边关，于是看月亮的人就有了一个可以和远方共享的东西，思念因此有了形状。",
            "山里的月亮是安静的，它从松树之间落到石头上，连泉水的声音也变得分明。江上的月亮却在流动，船走月也走，好像一个不肯告别的朋友。",
            "同样一个月亮，在不同的诗里有不同的温度。秋天的月带着霜气，春天的月隔着花影，读诗的人其实是在读诗人那一夜的心情。",
        ],
    ),
    "frontier": (
        "边塞诗中的风沙与归心",
        [
            "边塞诗的背景总是辽阔的，黄沙、白草、孤城、长河，几个词就把天地撑开了。人在这样的天地里显得很小，而正因为小，那一点想家的念头才格外沉重。",
            "写边塞的诗人未必都到过边塞，但他们都懂得等待。等一封信，等一场雪停，等一声号角之后的沉默，这些等待让豪壮的句子有了血肉。",
            "如果把边塞诗只当作战歌来读，就会错过其中最动人的部分。真正让人记住的，往往是将士回头望见月光的那一刻。",
        ],
    ),
    "printing": (
        "雕版印刷怎样改变了读书",
        [
            "在雕版印刷普及以前，书是一本一本抄出来的。抄书的人会疲倦，会看错行，会凭记忆补上不认识的字，所以同一部书往往有许多种样子。",
            "木板刻好之后，一天可以印出上百张纸，价钱降了下来，读书的人也多了起来。诗集从少数人的箱子里走到集市上，一个县里的学生也能读到京城流行的句子。",
            "不过印刷也会把错误固定下来。刻错一个字，所有的书便一起错，后来的学者要花很大力气，把不同的版本放在一起比较，才能推断原来的面貌。",
            "今天整理文字数据，遇到的问题其实很相似：重复、缺损、误植，仍然需要有人耐心地比对和取舍。",
        ],
    ),
    "canal": (
        "运河上的粮船",
        [
            "大运河把南方的稻米送到北方的都城，一年之中要走好几个月。船队经过水闸的时候，要等水位慢慢升起来，船工们就在岸上生火做饭，听说书人讲一段旧事。",
            "管理这样一条长路并不容易。何处水浅，何处堤坏，何时起运，何时停航，都要有人记账，有人传信，还要为意外留下余地。",
            "可以说运河是一张早期的调度网络。货物有轻重缓急，道路有宽有窄，价钱随季节涨落，怎样安排才最省，是每一任官员都要回答的问题。",
        ],
    ),
    "abacus": (
        "算盘与心算",
        [
            "算盘的好处在于把数字变成了看得见、摸得着的位置。珠子拨上去是加，拨下来是减，手指记住了路线，脑子就可以去想别的事情。",
            "熟练的账房先生打算盘时并不看珠子，他看的是账本。声音清脆而均匀，偶尔停顿一下，那便是遇到了一个需要核对的数目。",
            "学习算盘的孩子后来往往心算很快，因为他们的心里也有一把算盘。工具离开以后，工具教给人的秩序还留着。",
        ],
    ),
    "tea": (
        "山里的早茶",
        [
            "清明之前，山里的茶树刚刚冒出嫩芽，采茶的人天不亮就上山了。雾气很重，衣服走不多远就湿透，可是大家都说，有雾的早晨采下来的叶子最香。",
            "炒茶要用手去试锅的温度，太热会焦，太凉则不香。老师傅说不出那个温度是多少，他只是把手掌悬在锅上，过一会儿点点头，就可以下叶子了。",
            "一斤好茶要用几万个芽头，装在小小的纸包里却没有多少分量。喝的人慢慢喝，也算是对得起那些起早的人。",
        ],
    ),
    "power": (
        "夜里的电为什么便宜",
        [
            "电很难大量储存，发出来就要用掉。白天工厂开工，商场亮灯，用电的人多，电网要把最贵的机组也叫起来；到了深夜，需求落下去，便宜的水电和风电就有了富余。",
            "分时电价就是把这种差别写进账单。同样一度电，高峰时的价钱可能是低谷时的三倍，能够等一等的工作自然会往夜里挪。",
            "训练模型这一类任务正好可以等待，只要中途能够保存进度，就可以在电价低的时候运行，在高峰到来之前停下。省下的钱不是魔术，只是把时间也当成了一种资源。",
        ],
    ),
    "cleaning": (
        "Why cleaning text is harder than it looks",
        [
            "A page that a person reads in ten seconds is mostly not text. It holds menus, counters, captions and notices, and only somewhere in the middle are there a few paragraphs that somebody meant to write.",
            "Throwing away whole pages is easy, but it loses the good paragraphs with the bad ones. Working line by line keeps more, provided that every rule can say why it removed what it removed.",
            "The best test of such rules is not a score. It is to read a hundred of the lines that were thrown away, and to feel no regret about any of them.",
        ],
    ),
    "trains": (
        "A timetable is a promise",
        [
            "When the first railways published their timetables, passengers treated them as a curiosity. Within a few years whole towns had changed their clocks, because a promise about time is worth little if nobody agrees what time it is.",
            "Planning trains is a matter of shared track. Two trains cannot use one line at the same moment, so one of them waits, and the planner has to say which one and what the waiting costs.",
            "Good planners leave slack on purpose. A timetable without any spare minutes looks efficient on paper and falls apart on the first foggy morning.",
        ],
    ),
}
