# ruff: noqa: E501  (a pattern is a line)
"""The words and shapes that give rubbish lines away, as Rust regular expressions for Polars.

Knows what stuffed keywords, notices, counters, markers and lists of links look like, in Chinese (simplified)
and English. Does not know how much a hit weighs. Word
boundaries are those of ASCII: with Unicode ones the engine was hundreds of times slower.
"""

HAN = r"[\x{3400}-\x{9fff}\x{20000}-\x{3ffff}]"

# Counted by the characters they cover, so that an article about casinos is no casino's advertisement.
SPAM = (
    "(?i)博彩公司|博彩网|博彩|世界杯买球|买球|滚球|竞猜平台|电竞外围|外围|皇冠体育|皇冠手机|骰宝|牌九|龙虎斗|电子游艺|时时彩|六合彩|双色球|北京赛车|快三|体彩|足彩|彩票|娱乐城|娱乐平台|娱乐场|百家乐|老虎机|棋牌|捕鱼"
    "|投注|下注|开奖|赌场|赌博|赔率|澳门金沙|新?葡京|威尼斯人|太阳城|真人娱乐|真人视讯|注册送|彩金|返水|首存|充值返利|斗地主"
    "|德州扑克|炸金花|bet\\d{2,3}|pk10|走势图|情色|色情|色欲|成人视频|成人网|成人片|裸聊|三级片|无码|有码|约炮|激情视频|激情网"
    "|同城交友|人妻|熟妇|熟女|少妇|乱伦|自拍偷拍|偷拍|毛片|大香蕉|伦理片|性猛交|无遮挡|啪啪|高潮|蜜臀|成年女人|av网|空降|约妹|外围模特|黄片|国产精品|欧美精品|日韩精品|精品国产|亚洲精品|亚洲欧美|欧美亚洲"
    "|亚洲日韩|欧美日韩|日韩欧美|国产亚洲|亚洲国产|亚洲天堂|国产高清|国产自拍|国产一区|国产综合|久久久|久久精品|久久综合|久久"
    "|一区二区三区|一区二区|二区三区|在线观看|在线播放|在线视频|免费观看|免费视频|视频在线|中文字幕|字幕乱码|乱码|五月天|婷婷"
    "|丁香|伊人|蜜桃|麻豆|果冻传媒|秋霞|午夜福利|午夜影院|波多野|苍井空|巨乳|丝袜|制服|黄色网|黄网|爱爱|一级片|av|porn\\w*|91\\w?"
    "|99re\\d*|xxx+|hentai|代开发票|办证|刻章|私服|外挂|壮阳|丰胸|刷单|日结|加微信|加QQ|秒到账|无抵押|套现|代孕|包夜|高仿|站群"
    "|casino\\w*|viagra|cialis|slot machines?|free slots|sportsbook|betting|payday loans?|escorts?|jackpots?|free spins"
    "|(?:no )?deposit bonus|free bonus|free cams?|cheap replica|replica watch\\w*|without prescription|crack keygen|seo backlinks"
)
# Words so common in prose that one alone says nothing.
INNOCENT = "(?i)外围|空降|高潮|久久|丁香|制服|丝袜|少妇|乱码|在线观看|免费观看|在线播放|在线视频|亚洲国产|走势图|太阳城|彩票|91\\w?|av|蜜桃|开奖|捕鱼|外挂"

# A notice wherever in the page it stands, if it is short.
NOTICE = (
    r"(?i)ICP备|ICP证|公网安备|经营许可证|版权所有|版权声明|版权归|All Rights Reserved|Copyright ?(©|\(c\)|\d{4})|©|责任编辑|责编[:：]"
    r"|^\W*(编辑|校对|审核|监制|排版|供稿)[:：]|转载(请|需|须)|禁止转载|未经.{0,12}(许可|授权)|如有侵权|如涉及?侵权|侵权.{0,8}(删除|联系)"
    r"|(特别|郑重|免责|版权)(声明|提醒|提示)\s*[:：]|^\W*声明\s*[:：]|(主办|承办|主管|协办)(单位)?\s*[:：]|邮政编码|(许可证|备案号|标识码).{0,10}\d"
    r"|^\W*[前后]一[条篇]\s*[:：]|^\W*原标题\s*[:：]|本文(编辑|来自|来源)|(转载|如若转载)|复制链接|一键转发|审核(通过)?后.{0,4}显示|(开通|成为|升级).{0,4}(会员|VIP)|付费(阅读|内容)"
    r"|打印(本页|本文)|关闭(窗口|本页)|^\W*(打印|收藏|分享|点赞|举报|转发|评论)\W+(打印|收藏|分享|点赞|举报|转发|评论|关闭|字体)|已有\d+人|加载更多|暂无评论|微信搜索|添加.{0,6}微信|(公众号|小程序).{0,8}(关注|参与|领取|搜索)"
    r"|凡.{0,6}(本网|本站|注明)|(本网|本站).{0,20}(转载|版权|来源|删除)|(地址|电话|传真|邮箱|邮编)\s*[:：].{0,40}(地址|电话|传真|邮箱|邮编)\s*[:：]|(工信部|网信办)?备案"
    r"|免责声明|仅代表.{0,10}观点|网站地图|设为首页|加入收藏|收藏本站|手机版|^\W*[上下]一?[篇页条章]\W|上一[篇页]\s*[:：|]|下一[篇页]\s*[:：|]"
    r"|^\W*(相关|推荐|延伸|精彩|热门|热点|最新|更多)(阅读|推荐|新闻|文章|链接|报道|内容|资讯|排行|评论|专题|话题)"
    r"|猜你喜欢|点击(查看|进入|下载|阅读|这里|关注|图片)|(查看|阅读|展开)(更多|全文|原文)|扫一?扫|扫码|二维码|(关注|订阅)(我们|本站|公众号|微信)"
    r"|微信公众号[:：]|分享(到|至)|登录后|立即(注册|登录|下载)|注册账号|下载(APP|客户端)|广告(合作|投放|联系)|^\W*广告\W|立即(抢购|购买|咨询|体验)|小程序码|联系我们|友情链接|(浏览|点击|阅读|访问)(次数|量|数)"
    r"|发布(时间|日期|于)\s*[:：]|更新时间\s*[:：]|发表于\s*\d|^\W*(来源|文章来源|稿源|作者|记者|编辑|标签|TAGS?)\s*[:：].{0,60}$|热线(电话)?\s*[:：]|传真\s*[:：]|邮编\s*[:：]|客服(电话|热线|QQ)"
    r"|技术支持\s*[:：]|举报(电话|邮箱)|(欢迎|感谢).{0,4}(光临|访问|来到|关注).{0,24}(网|站|公司|平台|我们|公众号)|当前位置|您(现)?在的?位置"
    r"|在线客服|在线咨询|免费咨询|欢迎.{0,12}(留言|来电|咨询|选购|订购)|顶一下|踩一下|楼主|沙发!|回复\s*(举报|支持)|^\W*网友评论|^\W*发表评论"
    r"|(?-u:\b)(cookies? (policy|settings)|(use|uses|using|accept) cookies|privacy policy|terms (of|and) (use|service|conditions)|subscribe (to|now|today)"
    r"|sign (in|up) (now|to|for|today|with)|log ?in to|newsletter|site design by|best viewed (in|with)|click here|read more|continue reading|(related|recent|popular) (posts|articles|stories|news)"
    r"|you (may|might) also (like|enjoy)|share (this|on|article)|follow us|(leave a|post a|add a) (comment|reply)|(posted|filed|published|submitted) (by|on|in|under)(?-u:\b)"
    r"|skip to (main )?content|back to top|powered by|last (updated|modified)|add to cart|free shipping|required fields|(our|the) (mobile |free )?app(?-u:\b).{0,40}$|(your|e-?mail) inbox|enter your e-?mail|subscribers only|min(ute)? read|terms of use|email address will not be|view all posts"
    r"|previous (post|article)|next (post|article)|advertisement$|loading\W*$|buy now|order now|limited offer|all categories)"
)
# Under such a heading stands what is no part of the article.
MARKER = (
    r"(?i)^\W*((相关|推荐|延伸|精彩|热门|热点|最新|更多|猜你|大家都在|本类|本栏目?|编辑|今日|往期|同类)(阅读|推荐|精选|新闻|文章|链接|报道|内容|资讯|排行|评论|专题|话题|喜欢|搜|看|内容|更新|回顾|热榜).{0,6}"
    r"|(本周|今日|一周|24小时|月度)?(热点|热门|热榜|排行|排行榜|点击排行|阅读排行)|(网友|最新|全部|精彩)?评论(\(\d+\)|\d*条?)?|友情链接|发表评论|网友评论"
    r"|related (posts|articles|stories|news|links)|you (may|might) also (like|enjoy)|(recent|popular|latest|top) (posts|articles|stories|news|comments)"
    r"|more (from|stories|news).{0,20}|\d* ?comments?( \(\d+\))?|leave a (reply|comment)|recommended( for you)?|trending( now)?|most (read|popular|viewed)|sponsored( links)?)\W*$"
)
# A line that is a date, a counter or a page number and little else.
COUNTER = (
    r"(?i)^\W*((发布|更新|发表|阅读|浏览|点击|访问|评论|回复|点赞|人气|字数|热度|来源|作者|时间|日期|编辑|原创|转载|本文|本站|views?|by|on|comments?|updated|published"
    r"|read|min|minutes|hits|likes|shares|共|需|分钟|次|条|人|赞|篇|页|第|posted|likes?|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|am|pm|ago|hours?|days?)?"
    r"[\s\d:：,，./年月日时分秒()（）\[\]|-]*)+$"
)
CLOCK = r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?\s*\d{1,2}:\d{2}"
DOCUMENT_HEAD = r"文[档章](序号|编号)\s*[:：]|(下载积分|资源大小|资源ID|文件格式|总页数|上传时间|验证码)\s*[:：]|(阅读|浏览|点击|评论)\s*[:：(（]\s*\d+"
NUMBERED = (
    r"^(第[\d一二三四五六七八九十百千零〇]+[章节条篇回部幕讲课步]|[（(]?[一二三四五六七八九十百]+[）)]?[、.．:：)）]|[（(]\s*\d{1,3}\s*[）)]|\[?\d{1,4}(\.\d{1,3})*\]?[、.．:)）\s]"
    r"|[①-⑳⑴-⒇]|[•·▪◆●■★*-]\s*\S|[A-Z][.、)]|篇\(|图\s*\d|表\s*\d|例\s*\d|(Chapter|Section|Part|Figure|Table|Article|Step)\s+\d|【[^】广推]{1,20}】|#{1,6} )"
)
SPEAKER = r"^([\x{4e00}-\x{9fff}·]{1,8}|[A-Z][A-Za-z.]{0,14}|Q\d*|A\d*)\s*[:：]\s*\S"
SENTENCE_END = r"[。！？；…!?;.：:][”’\"'」』）)\]】*~～\d]*$|[”」』]$|——$|[^\s]——|[，,、]$"
LISTED = r"[\x{3400}-\x{9fff}] +[\x{3400}-\x{9fff}]"  # Chinese puts no spaces between words: a line with many is a list
CODE = (
    r"function\s*\(|(?-u:\b)var\s+\w+\s*=|document\.(write|get|cookie)|window\.\w+\s*[=(.]|^[\w.#-]+\s*\{[^}]*:[^}]*;?[^}]*\}|\$\(['\"]|</?(div|span|script|p|a|td|li)(?-u:\b)"
    r"|(color|margin|padding|font-size|width|height|display)\s*:\s*[#\w]+;"
)
MOJIBAKE = "Ã.|â€|ï¿½|锟斤拷|烫烫烫|屯屯屯|\ufffd"
